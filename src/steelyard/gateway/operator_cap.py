"""No operator gets over a third of a service's calls while at least three others are well.

1. Shares are cut to a third, and what is cut goes to the others in proportion. So nobody becomes the service by being
   a little cheaper, and three have to agree before a wrong answer is most people's.
2. Of two drawn the less busy one is asked, which would favour the quick beyond their share: so turns are counted, and
   whoever has had a third of the last ones waits.
3. It holds where nothing but other operators' answers checks an answer: the kinds of the check `consensus`.

Pure. Source: research/relay.md, sections 1 and 6. Law: docs/spec/relay.md, section 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST_SHARE = 1 / 3
LEAST_OTHERS = 3
WINDOW = 512
"""Turns after which old ones count half."""


def cap_shares(shares: Sequence[float]) -> list[float]:
    """Return shares that sum to 1, none above `MOST_SHARE`, and otherwise in proportion; at least four, all above 0."""
    left, rest = 1.0, dict(enumerate(shares))
    result = [0.0] * len(shares)
    while True:
        total = sum(rest.values())
        over = [index for index, share in rest.items() if share / total * left > MOST_SHARE]
        if not over:
            for index, share in rest.items():
                result[index] = share / total * left
            return result
        for index in over:
            del rest[index]
            result[index] = MOST_SHARE
            left -= MOST_SHARE
        if not rest:  # rounding: three thirds leave nothing
            return result


class Turns:
    """Who had the last turns of one service."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts: dict[bytes, float] = {}
        self._total = 0.0

    def take(self, wanted: Iterable[int], providers: Sequence[bytes]) -> int:
        """Return and count the first of the wanted indices that may have the next turn; anybody's, if none may."""
        counts, most = self._counts, self._total * MOST_SHARE
        chosen = next((index for index in wanted if counts.get(providers[index], 0.0) <= most), None)
        if chosen is None:
            chosen = min(range(len(providers)), key=lambda index: counts.get(providers[index], 0.0))
        counts[providers[chosen]] = counts.get(providers[chosen], 0.0) + 1.0
        self._total += 1.0
        if self._total >= WINDOW:
            self._counts = {provider: count / 2 for provider, count in counts.items() if count > 0.01}
            self._total = sum(self._counts.values())
        return chosen
