"""Requests per minute: one token bucket for each key, in memory.

1. A bucket holds as many tokens as the key may use in a minute, and is full at first; it refills evenly.
2. A refused request takes no token, and is told when the next one comes.

Law: docs/spec/gateway.md, section 5.
"""

from __future__ import annotations


class TokenBucket:
    """A rate limit's state.

    Args:
        per_minute: above zero. now_s: any monotonic clock's time.
    """

    __slots__ = ("_at_s", "_tokens", "per_minute")

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._tokens = float(per_minute)
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take a token and return 0.0, or take none and return how many seconds until there is one."""
        rate = self.per_minute / 60.0
        tokens = min(float(self.per_minute), self._tokens + (now_s - self._at_s) * rate)
        self._at_s = now_s
        if tokens >= 1.0:
            self._tokens = tokens - 1.0
            return 0.0
        self._tokens = tokens
        return (1.0 - tokens) / rate

    def give_back(self) -> None:
        """Undo a `take` that took a token."""
        self._tokens += 1.0
