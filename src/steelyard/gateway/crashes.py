"""What a log may say of a bug: where it struck and what it was, without any value that was at hand.

An exception's message and a traceback's local variables may hold a client's text, a key or a voucher. Our own errors
are written for people and hold none; of all others only the type is told.

Law: docs/spec/gateway.md, section 7.
"""

from __future__ import annotations

import traceback

from steelyard.errors import SteelyardError

_FRAMES = 20


def describe_crash(error: BaseException) -> dict[str, object]:
    """Return an exception's type, the message if it is our own, and its frames, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    told: dict[str, object] = {
        "error": type(error).__name__,
        "frames": [f"{frame.filename.rpartition('steelyard/')[2]}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, SteelyardError):
        told["reason"] = error.message
    if error.__cause__ is not None:
        told["cause"] = describe_crash(error.__cause__)
    return told
