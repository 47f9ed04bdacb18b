FROM a
COPY <<EOF /x
body
