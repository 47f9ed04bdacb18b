FROM a
HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2s --start-interval=1s --retries=3 CMD curl -f x || exit 1
HEALTHCHECK cmd ["a", "b"]
HEALTHCHECK none
HEALTHCHECK --interval=0 --retries= CMD x
