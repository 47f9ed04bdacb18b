FROM --platfrom=x a
COPY --chwon=1 a b
COPY --chown a b
COPY --chown=1 --chown=2 a b
RUN --mont=type=cache x
CMD --verbose
ENV --x a=b
USER --x y
ADD --parents a b
