FROM a
SHELL []
VOLUME []
SHELL bash -c
VOLUME [""]
