ARG A
ARG B= C=d E="f g"
# D what it is
# more
ARG D=1
FROM a$A
ARG x y=z=1
