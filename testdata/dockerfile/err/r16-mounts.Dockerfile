FROM a
RUN --mount=type=cash,target=/x y
RUN --mount=type=cache,taget=/x y
RUN --mount=from=$x,target=/y z
RUN --mount=type=cache,target=/x,sharing=lock y
RUN --mount="type=bind y
RUN --network=hosts x
RUN --security=none x
RUN --device=a,b x
