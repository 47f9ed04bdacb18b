#!/usr/bin/env build
# syntax=a/b
# check=skip=all
FROM a
