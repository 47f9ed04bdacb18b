FROM a
RUN <<EOF
a
EOF
RUN 3<<EOF cat <&3
b
EOF
RUN cat << EOF
c
EOF
RUN cat <<<EOF
RUN cat a<<EOF
COPY <<file.txt <<"two words" /d/
d
file.txt
e
two words
