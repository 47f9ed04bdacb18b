FROM a
RUN echo it's <<EOF
line one
line two
EOF
