FROM a
RUN one \
  two\
three \  	
 four
RUN \
  five
RUN six \\
USER seven
