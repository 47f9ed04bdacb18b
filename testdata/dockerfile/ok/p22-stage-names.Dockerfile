FROM a AS Build-1.x
from b as c
FROM scratch
