FROM a
RUN <<'A'
$x
A
RUN <<"B"
$x
B
RUN <<C"D"
$x
CD
RUN <<E\F
$x
EF
