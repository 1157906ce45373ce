"""How ids look outside: service ids, call ids, accounts, regions.

Law: docs/spec/messages.md, section 2.
"""

from __future__ import annotations

import re

from steelyard.errors import BadRequest
from steelyard.protocol.hashing import keccak

_SERVICE_NAME = re.compile(r"[a-z0-9][a-z0-9._:/@-]{0,63}")
_CALL = re.compile(r"call_([0-9a-f]{32})")
_ACCOUNT = re.compile(r"0x[0-9a-fA-F]{40}")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

MAX_REGION = 32


def service_id(name: str) -> bytes:
    """Return keccak256 of a service's name: 1 to 64 of ``a-z 0-9 . _ : / @ -``, beginning with a letter or digit.

    Raises:
        BadRequest: the name is not of that form.
    """
    if not _SERVICE_NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no service name: use 1 to 64 of a-z 0-9 . _ : / @ -", param="model")
    return keccak(name.encode())


def format_call(call_id: bytes) -> str:
    """Return the public form of a 16-byte call id, ``call_`` and 32 hex digits."""
    return "call_" + call_id.hex()


def parse_call(text: str) -> bytes:
    """Return the 16 bytes of a public call id; raises BadRequest for anything else."""
    match = _CALL.fullmatch(text)
    if match is None:
        raise BadRequest(f"{text[:80]!r} is no call id: it looks like call_ and 32 hex digits", param="id")
    return bytes.fromhex(match[1])


def format_hex(value: bytes) -> str:
    """Return 0x and lower-case hex."""
    return "0x" + value.hex()


def parse_account(text: str, param: str = "account") -> bytes:
    """Return the 20 bytes of a 0x address (upper or lower case); raises BadRequest naming `param`."""
    if not _ACCOUNT.fullmatch(text):
        raise BadRequest(f"{text[:80]!r} is no account: it looks like 0x and 40 hex digits", param=param)
    return bytes.fromhex(text[2:])


def parse_hash(text: str, param: str = "hash") -> bytes:
    """Return the 32 bytes of a 0x hash; raises BadRequest naming `param`."""
    if not _HASH.fullmatch(text):
        raise BadRequest(f"{text[:80]!r} is no hash: it looks like 0x and 64 hex digits", param=param)
    return bytes.fromhex(text[2:])


def is_region(text: str) -> bool:
    """Say whether a text names a region: a-z and 0-9 joined by hyphens, the widest part first, e.g. ``eu-west-1``."""
    return len(text) <= MAX_REGION and _REGION.fullmatch(text) is not None
