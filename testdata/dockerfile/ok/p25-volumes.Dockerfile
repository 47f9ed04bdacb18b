FROM a
VOLUME /a /b
VOLUME ["/c d", " /e "]
VOLUME [/f]
