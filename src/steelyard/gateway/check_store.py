"""What validators may look at: the texts of calls that are not private, in memory, for a while.

1. One insert a call on the hot path; nothing is copied, hashed or written.
2. Bounded by age and by bytes, the oldest goes first. A restart loses all of it: then validators abstain.
3. A private call never comes here.

Law: docs/spec/gateway.md, section 9.
"""

from __future__ import annotations

from collections import deque

import msgspec

from steelyard.link.port import CallRequest
from steelyard.protocol.messages import Receipt

ENTRY_BYTES = 1_500
"""What an entry costs beside its texts, by measure."""


class KeptCall(msgspec.Struct, frozen=True, gc=False):
    """A call as it was served; `since_s` is a monotonic time."""

    request: CallRequest
    content: bytes
    receipt: Receipt
    since_s: float


class CheckStore:
    """The calls that may be checked, by the hash of their receipt.

    Args:
        keep_s: how long. keep_bytes: how much at most; 0 keeps nothing.
    """

    __slots__ = ("_keep_bytes", "_keep_s", "_kept", "_order", "_size_bytes")

    def __init__(self, keep_s: float, keep_bytes: int) -> None:
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._kept: dict[bytes, KeptCall] = {}
        self._order: deque[bytes] = deque()  # a dict's own first key is found ever more slowly, the more were deleted
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """How much is kept, about."""
        return self._size_bytes

    def keep(self, receipt_hash: bytes, request: CallRequest, content: bytes, receipt: Receipt, now_s: float) -> None:
        """Keep a call whose receipt was checked."""
        self._kept[receipt_hash] = KeptCall(request, content, receipt, now_s)
        self._order.append(receipt_hash)
        self._size_bytes += _size_bytes(request, content)
        while self._size_bytes > self._keep_bytes:
            self._drop_oldest()

    def find(self, receipt_hash: bytes, now_s: float) -> KeptCall | None:
        """Return a call that is kept and not too old."""
        kept = self._kept.get(receipt_hash)
        return kept if kept is not None and now_s - kept.since_s < self._keep_s else None

    def expire(self, now_s: float) -> None:
        """Drop what is too old."""
        while self._order and now_s - self._kept[self._order[0]].since_s >= self._keep_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        kept = self._kept.pop(self._order.popleft())
        self._size_bytes -= _size_bytes(kept.request, kept.content)


def _size_bytes(request: CallRequest, content: bytes) -> int:
    return len(request.body) + len(request.prefix) + len(content) + ENTRY_BYTES
