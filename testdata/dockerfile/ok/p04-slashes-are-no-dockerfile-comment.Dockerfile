# syntax=a
FROM b
