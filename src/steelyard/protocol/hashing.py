"""Keccak-256 and the 32-byte words that contracts hash.

Law: docs/spec/messages.md, section 1.
"""

from __future__ import annotations

import sha3

ZERO32 = b"\x00" * 32


def keccak(data: bytes) -> bytes:
    """Return the 32-byte Keccak-256 digest of any bytes (Ethereum's, not NIST SHA3)."""
    return sha3.keccak_256(data).digest()  # type: ignore[no-any-return]  # safe-pysha3 has no types


def word(value: int) -> bytes:
    """Return a non-negative integer below 2^256 as a big-endian 32-byte word; raises OverflowError outside that."""
    return value.to_bytes(32, "big")


def address_word(address: bytes) -> bytes:
    """Return a 20-byte address as a left-padded 32-byte word."""
    return b"\x00" * 12 + address
