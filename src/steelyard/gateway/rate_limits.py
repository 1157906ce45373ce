"""Requests per minute: one token bucket for each key, in memory, or in the database that processes share.

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


class SharedBucket:
    """The turns that this process leased of a key's, whose bucket is in the database (`storage/turns.py`).

    Args:
        per_minute: above zero. now_s: any monotonic clock's time.
    """

    __slots__ = ("_empty_until_s", "_filled_s", "_held", "per_minute")

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._held = 0
        self._filled_s = now_s
        self._empty_until_s = now_s

    @property
    def want(self) -> int:
        """How many turns to lease at once: what may be used in a second."""
        return max(1, min(1_000, self.per_minute // 60))

    def take(self, now_s: float) -> float:
        """Take a turn and return 0.0, or take none and return a time in seconds: the database knows better."""
        if self._held > 0 and now_s - self._filled_s < 60.0:
            self._held -= 1
            return 0.0
        self._held = 0
        return 60.0 / self.per_minute

    def empty_for_s(self, now_s: float) -> float:
        """Return for how many seconds the database has none, as it said, so that it isn't asked again; else 0.0."""
        return max(0.0, self._empty_until_s - now_s)

    def note_empty(self, wait_s: float, now_s: float) -> None:
        """Remember that the database has none for so long; a limit that is raised meanwhile is a new bucket."""
        self._empty_until_s = now_s + wait_s

    def fill(self, turns: int, now_s: float) -> None:
        """Keep what was leased."""
        self._held += turns
        self._filled_s = now_s

    def give_back(self) -> None:
        """Undo a `take` that took a turn."""
        self._held += 1
