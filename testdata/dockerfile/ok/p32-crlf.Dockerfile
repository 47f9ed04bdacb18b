# escape=`
FROM a
RUN one `
  two

COPY <<EOF /x
body
EOF
ENV a=b
