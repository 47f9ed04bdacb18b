FROM a
ENV é=ü "日本"=語
COPY --chown=é a b
RUN echo x
