# base the base
# other line
FROM a AS base
# loose
#
# check=skip=JSONArgsRecommended,X
CMD x
  # indented
RUN y
# name far above

ARG name
