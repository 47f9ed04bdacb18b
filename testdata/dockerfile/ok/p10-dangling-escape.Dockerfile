FROM a
RUN one \
