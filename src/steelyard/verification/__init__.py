"""The maths of checking: which calls are checked, what a comparison is worth as evidence, and when it is enough.

Pure: no clock, no socket, no file, no random numbers of its own; imports `protocol` and `errors` alone. Everything here
is recomputed by anyone from what is published.

Law: docs/spec/checking.md.
"""
