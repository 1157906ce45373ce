"""The one door through which amounts and peers' integers enter the database.

1. An amount that does not fit is refused; it never wraps, and SQLite never turns it into a float.

Law: docs/spec/storage.md, section 2.
"""

from __future__ import annotations

from steelyard.errors import BadRequest

MAX_NANO = 2**63 - 1
"""The largest amount that one column holds: 9.2 thousand million YARD."""


def checked_nano(value: int, name: str = "amount_nano") -> int:
    """Return `value` if it is a whole number of nano that the database can hold.

    Raises:
        BadRequest: negative, above 2^63-1, or not an `int` at all (a bool or a float is neither); names `name`.
    """
    if type(value) is not int or not 0 <= value <= MAX_NANO:
        message = f"{name} is {value!r}: it must be a whole number of nano between 0 and {MAX_NANO}"
        raise BadRequest(message, code="amount_out_of_range", param=name)
    return value


def pack_u64(value: int, name: str) -> bytes:
    """Return a uint64 as the 8 bytes that the database keeps; raises BadRequest outside its range."""
    if not 0 <= value < 2**64:
        raise BadRequest(f"{name} is {value}: it must be between 0 and 2^64-1", code="out_of_range", param=name)
    return value.to_bytes(8, "big")
