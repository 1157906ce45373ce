"""Random bytes by the kilobyte: one system call for many calls' ids, salts and seeds.

Law: docs/spec/gateway.md, section 5.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_POOL_BYTES = 4_096


class RandomPool:
    """Hands out bytes of the operating system's generator, each once."""

    __slots__ = ("_at", "_draw", "_pool")

    def __init__(self, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._draw = draw
        self._pool = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return so many random bytes, at most 4,096."""
        at = self._at
        end = at + count
        if end > len(self._pool):
            self._pool = self._draw(_POOL_BYTES)
            at, end = 0, count
        self._at = end
        return self._pool[at:end]
