FROM a
COPY --link= a b
COPY --link=yes a b
ADD --keep-git-dir=1 a b
