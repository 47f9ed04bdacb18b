FROM a
CMD ["sleep", 5]
RUN ["a", ["b"]]
COPY [1, 2]
