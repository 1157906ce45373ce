"""Call ids that hide which key made the call.

1. A call id is 3 bytes of the time, 5 random bytes, and the key's mark under a mask that only the gateway can make.
2. So a gateway that lost its memory of a call still knows whom to charge, and no provider can link two calls of a key.
3. The time leads, so that calls of one moment lie together in the database. It goes round in 18.6 hours, and over one
   round two ids are as seldom alike as if all 8 bytes were random.

Law: docs/spec/gateway.md, section 5.
"""

from __future__ import annotations

from hashlib import blake2b, sha256

CALL_MARK_PURPOSE = "steelyard/call-mark/1"
_HALF = 8
_TICK_BITS = 2  # 4 ms


def key_mark(key_id: str) -> int:
    """Return the 64-bit mark of a key."""
    return int.from_bytes(sha256(key_id.encode()).digest()[:_HALF], "big")


def call_nonce(now_ms: int, random: bytes) -> bytes:
    """Return the 8 bytes that a call id begins with, made of the time and of 5 random bytes."""
    return (now_ms >> _TICK_BITS & 0xFFFFFF).to_bytes(3, "big") + random


def mark_call(secret: bytes, nonce: bytes, mark: int) -> bytes:
    """Return a 16-byte call id that hides a key's mark under an 8-byte nonce."""
    return nonce + (_mask(secret, nonce) ^ mark).to_bytes(_HALF, "big")


def read_mark(secret: bytes, call_id: bytes) -> int:
    """Return the mark that a call id of ours hides; noise for any other."""
    return _mask(secret, call_id[:_HALF]) ^ int.from_bytes(call_id[_HALF:], "big")


def _mask(secret: bytes, nonce: bytes) -> int:
    return int.from_bytes(blake2b(nonce, key=secret, digest_size=_HALF).digest(), "big")
