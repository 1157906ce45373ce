"""Content ids: how the SHA-256 of a blob looks outside.

1. A CID here is CIDv1, codec `raw`, multihash sha2-256, in base32: 59 characters that begin with ``bafkrei``.
2. On chain and inside the program it is the 32-byte digest.

Law: docs/spec/messages.md, section 2.  Source: the multiformats CID and multibase specifications.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from steelyard.errors import BadRequest

_HEADER = bytes((0x01, 0x55, 0x12, 0x20))  # version 1, raw, sha2-256, 32 bytes
_LENGTH = 59


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """The content id of a blob: its 32-byte SHA-256 `digest`; `str()` gives the public form."""

    digest: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.digest, bytes) or len(self.digest) != 32:
            raise ValueError(f"a content id has a digest of 32 bytes, not {self.digest!r}")

    def __str__(self) -> str:
        return "b" + base64.b32encode(_HEADER + self.digest).decode().rstrip("=").lower()


def cid_of(blob: bytes) -> Cid:
    """Return the content id of some bytes."""
    return Cid(hashlib.sha256(blob).digest())


def parse_cid(text: str, param: str = "cid") -> Cid:
    """Return the content id that a text spells.

    Raises:
        BadRequest: not a CIDv1 of raw bytes by sha2-256 in lower-case base32; names `param`.
    """
    if len(text) == _LENGTH and text.isascii() and text[0] == "b" and text == text.lower():
        try:
            data = base64.b32decode(text[1:].upper() + "======")
        except ValueError:
            data = b""
        cid = Cid(data[4:]) if data[:4] == _HEADER else None
        # The last character has two bits to spare: only the one spelling that we would write ourselves counts.
        if cid is not None and str(cid) == text:
            return cid
    message = f"{text[:80]!r} is no content id: it looks like bafkrei and 52 more of a-z 2-7 (CIDv1, raw, sha2-256)"
    raise BadRequest(message, param=param)
