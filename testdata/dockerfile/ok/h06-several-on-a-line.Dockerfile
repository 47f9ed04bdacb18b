FROM a
RUN cat <<A /b && cat <<B > /c
1
A
2
B
COPY a <<C <<D e /f/
3
C
4
D
