"""From what a replay found of each token to three bounded scores, and to the strata that they are judged in.

1. A score lies between 0 (as an honest machine would have it) and 1: not the same token, the clipped margin, the
   clipped difference of log-probabilities.
2. A stratum is made of what the validator knows without the claim: the request's sampling, the lead of its own choice
   over the next, the entropy of its own candidates. So a provider can't choose the stratum that it is judged in.
3. What is no number, or can't be, says nothing: that token is left out.

Law: docs/spec/checking.md, section 3.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from enum import IntEnum
from typing import Protocol

import msgspec

SCORES = ("mismatch", "margin", "gap")
"""The scores' names, in their order everywhere."""


class ScoredPosition(Protocol):
    """What a kind's comparison says of one position; `services.port.Score` is one.

    `margin`, `gap`, `entropy` and `lead` are finite and not negative in an honest comparison; anything may stand there
    in another.
    """

    @property
    def is_match(self) -> bool: ...
    @property
    def margin(self) -> float: ...
    @property
    def gap(self) -> float: ...
    @property
    def entropy(self) -> float: ...
    @property
    def lead(self) -> float: ...


class Regime(IntEnum):
    """How hot the request's sampling is; the coarsest stratum. Leads are in nats whatever the temperature, so that cool
    and greedy answers share one.
    """

    COOL = 0
    HOT = 1


class Clips(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where margin and gap are cut, in their own units (chat: nats); a score is the cut value over its clip."""

    margin: float = 1.0
    gap: float = 1.0


class Strata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Edges of the bins, rising: of the lead (for mismatch and margin) and of the entropy (for the gap), in nats.

    Without edges there is one bin, for kinds that have no candidates.
    """

    lead: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()

    def bins(self, score: int) -> int:
        """Return how many bins a score (by its place in `SCORES`) has."""
        return len(self.lead if self.is_better_high(score) else self.entropy) + 1

    def is_better_high(self, score: int) -> bool:
        """Tell whether honest machines differ less in higher bins: with the lead they do, with the entropy more."""
        return SCORES[score] != "gap"


CHAT_STRATA = Strata(
    lead=(1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0), entropy=(0.01, 0.1, 0.5, 1.0, 2.0, 3.0)
)
CHAT_CLIPS = Clips(margin=1.0, gap=1.0)
PLAIN_STRATA = Strata()
VECTOR_CLIPS = Clips(margin=0.05, gap=2.0**22)
"""For vectors: the margin is 1 - cosine, the gap is in units of 2^-24."""


def regime_of(temperature: float) -> Regime:
    """Return the regime of a request's temperature (0 to 2)."""
    return Regime.COOL if temperature <= 1.0 else Regime.HOT


def bin_of(strata: Strata, score: int, position: ScoredPosition) -> int:
    """Return the bin in which a score (by its place in `SCORES`) of a position is judged."""
    if strata.is_better_high(score):
        return bisect_right(strata.lead, position.lead)
    return bisect_right(strata.entropy, position.entropy)


def bounded_scores(position: ScoredPosition, clips: Clips) -> tuple[float, float, float] | None:
    """Return the three scores of one position, each from 0 to 1; None where any number of it can't be.

    Source: Token-DiFR (arXiv 2511.20621) for the clipped margin; the gap is a fingerprint that catches other weights.
    """
    numbers = (position.margin, position.gap, position.entropy, position.lead)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return None
    return (
        0.0 if position.is_match else 1.0,
        min(1.0, position.margin / clips.margin),
        min(1.0, position.gap / clips.gap),
    )
