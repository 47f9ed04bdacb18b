FROM a
ONBUILD CPOY a b
ONBUILD COPY --frm=x a b
ONBUILD COPY a
ONBUILD RUN --mount=type=cash x
