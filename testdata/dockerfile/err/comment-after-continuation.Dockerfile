FROM a
RUN apt-get update && \ # refresh
    apt-get install -y x \
    y
USER z
