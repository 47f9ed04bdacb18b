FROM a
ENV a b  c "d"
ENV a=b c="d e" f=g\ h i='j k'
ENV a=
ENV "a b"=c
LABEL x y z
LABEL a=b "c d"="e"
