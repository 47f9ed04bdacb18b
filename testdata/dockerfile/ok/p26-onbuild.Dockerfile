FROM a
ONBUILD RUN one two
  onbuild   COPY --from=x \
  a b
ONBUILD RUN <<EOF
three
EOF
ONBUILD COPY <<-X <<Y /d/
	four
X
five
Y
ONBUILD CMD ["a"]
