FROM a
RUN ["a", "b c", "\u00e9\n"]
RUN ['a']
RUN ["a",]
RUN [ "a" ] b
CMD ["x"]
CMD x "y z"
CMD []
CMD
ENTRYPOINT []
ENTRYPOINT ["e"]
ENTRYPOINT e $f
SHELL ["/bin/bash", "-c"]
