"""Calls that were taken: none is run twice before its deadline, after which nobody may send it any more.

Pure: the time comes as an argument. Law: docs/spec/node.md, section 2.
"""

from __future__ import annotations

from steelyard.link.port import Failure

MAX_SEEN = 1_000_000
"""Unexpired calls that are remembered, some 100 MB; beyond it new ones are answered ``busy``."""


class SeenCalls:
    """Call ids, each kept until its order's deadline (Unix milliseconds) is surely past.

    Args:
        slack_ms: how long after its deadline an order might still be taken. capacity: ids that are kept at once.
    """

    def __init__(self, slack_ms: int, capacity: int = MAX_SEEN) -> None:
        self._slack_ms = slack_ms
        self._capacity = capacity
        self._seconds: dict[bytes, int] = {}
        self._by_second: dict[int, set[bytes]] = {}
        self._expired_s = 0

    def __len__(self) -> int:
        return len(self._seconds)

    def take(self, call_id: bytes, deadline_ms: int, now_ms: int) -> Failure | None:
        """Remember a call (untrusted), or say why it isn't taken: seen before, or too many to remember."""
        if now_ms // 1000 > self._expired_s:
            self._expire(now_ms // 1000)
        if call_id in self._seconds:
            return Failure("bad_order", "this call was taken before", is_retryable=False)
        if len(self._seconds) >= self._capacity:
            return Failure("busy", f"{len(self._seconds)} calls are before their deadline here", retry_after_s=5.0)
        second = (deadline_ms + self._slack_ms) // 1000 + 1
        self._seconds[call_id] = second
        bucket = self._by_second.get(second)
        if bucket is None:
            bucket = self._by_second[second] = set()
        bucket.add(call_id)
        return None

    def forget(self, call_id: bytes) -> None:
        """Let a call come again: it ended without a receipt."""
        second = self._seconds.pop(call_id, None)
        if second is not None:
            self._by_second[second].discard(call_id)

    def _expire(self, now_s: int) -> None:
        self._expired_s = now_s
        for second in [second for second in self._by_second if second <= now_s]:
            for call_id in self._by_second.pop(second):
                if self._seconds.get(call_id) == second:
                    del self._seconds[call_id]
