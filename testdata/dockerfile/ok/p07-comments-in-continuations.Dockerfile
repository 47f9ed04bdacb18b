FROM a
RUN one \
# gone \
  # gone too
  two \


  three
RUN four # stays
