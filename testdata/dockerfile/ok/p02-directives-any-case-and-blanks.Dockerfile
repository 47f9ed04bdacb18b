#  EsCape =  ` 
# CHECK=skip=A,B;error=true
# Syntax=a/b:1 more
FROM a
RUN x `
 y \
USER z
