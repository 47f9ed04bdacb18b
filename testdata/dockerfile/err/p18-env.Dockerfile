FROM a
ENV
ENV a
ENV a=1 # the answer
ENV a=1 b
LABEL =x
