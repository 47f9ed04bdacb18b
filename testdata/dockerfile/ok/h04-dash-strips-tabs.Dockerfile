FROM a
RUN <<-EOF
	one
		 two
  three
	EOF
COPY <<-X /x
	four
X
