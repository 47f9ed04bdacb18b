FROM a
RUN echo it's <<EOF
USER b
