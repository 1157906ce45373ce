"""Answers that stay true: results of deterministic requests, in memory, bounded by bytes.

1. Kept is the raw JSON of a `result` that isn't null; never an error, never an answer to a private call.
2. The key is service, method and parameters; spaces between JSON's tokens make no difference.
3. The one used longest ago goes first. An entry is forgotten after `keep_s`, or when told that its provider lies.
4. What comes from here costs the client nothing: nobody worked for it. It names the receipt of the call that made it.

Which requests are deterministic is known by the kind (services/rpc); this room only keeps. Law: docs/spec/relay.md.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import msgspec

from steelyard.gateway.replies import Header

ENTRY_BYTES = 600
"""What an entry costs beside its key and result, by measure."""

LARGEST_SHARE = 16
"""An entry takes at most this part of the whole cache."""

_SPACE = re.compile(rb"\s")
_SPACES = re.compile(rb'("(?:[^"\\]|\\.)*")|\s+')


class CachedAnswer(msgspec.Struct, frozen=True, gc=False):
    """A result as it came; `headers` name who made it, `receipt_hex` is that call's; `since_s` is monotonic."""

    result: bytes
    provider: bytes
    headers: tuple[Header, ...]
    receipt_hex: bytes
    since_s: float


def cache_key(service: str, method: str, params: bytes) -> bytes:
    """Return the key of a request; equal for parameters that differ in nothing but spaces."""
    if _SPACE.search(params):
        params = _SPACES.sub(lambda found: found[1] or b"", params)
    return b"%s\x00%s\x00%s" % (service.encode(), method.encode(), params)


class RelayCache:
    """The results of one gateway process.

    Args:
        keep_bytes: how much at most; 0 keeps nothing. keep_s: how long.
    """

    __slots__ = ("_keep_bytes", "_keep_s", "_kept", "hits", "misses", "size_bytes")

    def __init__(self, keep_bytes: int, keep_s: float) -> None:
        self._keep_bytes = keep_bytes
        self._keep_s = keep_s
        self._kept: OrderedDict[bytes, CachedAnswer] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes, now_s: float) -> CachedAnswer | None:
        """Return what is kept under a key, if it isn't too old."""
        answer = self._kept.get(key)
        if answer is not None and now_s - answer.since_s >= self._keep_s:
            self._drop(key)
            answer = None
        if answer is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return answer

    def keep(self, key: bytes, answer: CachedAnswer) -> None:
        """Keep a result; one that is null, or too large, is let go."""
        size = _size(key, answer)
        if answer.result == b"null" or size > self._keep_bytes // LARGEST_SHARE:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = answer
        self.size_bytes += size
        while self.size_bytes > self._keep_bytes:
            self._drop(next(iter(self._kept)))

    def forget_provider(self, provider: bytes) -> int:
        """Drop all that a provider made, e.g. since it was found to lie; return how many."""
        keys = [key for key, answer in self._kept.items() if answer.provider == provider]
        for key in keys:
            self._drop(key)
        return len(keys)

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= _size(key, self._kept.pop(key))


def _size(key: bytes, answer: CachedAnswer) -> int:
    return len(key) + len(answer.result) + ENTRY_BYTES
