"""What one answer is worth as evidence: bets against the claim that its provider is honest, at fair odds.

1. The claim is only this: whatever came before, the expected score of the next token is at most its stratum's bound.
   No independence, no distribution, no number of tokens is assumed.
2. A bet of gain g multiplies by (1 + g x) / (1 + g mu) for a score x under a bound mu: never zero, never negative, and
   at most 1 in expectation under the claim, for each x from 0 to 1 and each g.
3. Nobody knows the cheat, so all bets of a grid are held, in equal parts; gains from 1/4 to 4096 are effects (as odds
   against the bound) from 1.25 to 4097 times.
4. Everything is in logarithms: no answer is too long, no evidence too strong.

Law: docs/spec/checking.md, section 5.  Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables
by betting" (arXiv 2010.09686); lambda = g / (1 + g mu).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from steelyard.errors import BadMessage
from steelyard.verification.null import PPB, Null
from steelyard.verification.scores import SCORES, Regime, ScoredPosition, bounded_scores

GAINS = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
BETS = len(SCORES) * len(GAINS)
"""Bets on one answer: for each score in order each gain in order, equal parts."""


class AnswerEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an answer says against its provider.

    Attributes:
        tokens: how many positions were compared. scored: how many of them lay in a calibrated stratum.
        log_bets: natural logarithms of what each bet has become; `BETS` of them.
    """

    tokens: int
    scored: int
    log_bets: tuple[float, ...]

    @property
    def log_e(self) -> float:
        """Natural logarithm of the answer's e-value: the mean over all bets."""
        return log_mean(self.log_bets)

    @property
    def p_value(self) -> float:
        """Upper bound of the chance that an honest answer looks so bad: min(1, 1 / e), by Markov."""
        return math.exp(min(0.0, -self.log_e))


def log_factor(score: float, bound: float, gain: float) -> float:
    """Return the logarithm of what a bet is multiplied by.

    Args:
        score: 0 to 1. bound: its highest expectation under honesty, 0 to 1. gain: above 0.

    Source: docs/spec/checking.md, section 5.
    """
    return math.log1p(gain * score) - math.log1p(gain * bound)


def weigh_answer(null: Null, regime: Regime, positions: Iterable[ScoredPosition]) -> AnswerEvidence:
    """Return the evidence in one answer.

    Args:
        null: calibrated for this manifest, this provider's engine and the replaying engine.
        regime: of the request, by `scores.regime_of`.
        positions: in the answer's order; lead and entropy must come from the replay alone.
    """
    sums = [[0.0] * len(GAINS) for _ in SCORES]
    losses: dict[int, list[float]] = {}
    tokens = scored = 0
    for position in positions:
        tokens += 1
        found = bounded_scores(position, null.clips)
        if found is None:
            continue
        is_scored = False
        for index, (total, score) in enumerate(zip(sums, found, strict=True)):
            bound = null.bound_ppb(index, regime, position)
            if bound is None:
                continue
            is_scored = True
            loss = losses.get(bound)
            if loss is None:
                loss = losses[bound] = [math.log1p(gain * bound / PPB) for gain in GAINS]
            for bet, gain in enumerate(GAINS):
                total[bet] += (math.log1p(gain * score) if score else 0.0) - loss[bet]
        scored += is_scored
    return AnswerEvidence(tokens=tokens, scored=scored, log_bets=tuple(value for row in sums for value in row))


def least_evidence(first: AnswerEvidence, second: AnswerEvidence) -> AnswerEvidence:
    """Return what two bought replays of one answer say together: of each bet the smaller.

    It is valid if either seller was honest. Of their tokens the fewer count.
    """
    return AnswerEvidence(
        tokens=min(first.tokens, second.tokens),
        scored=min(first.scored, second.scored),
        log_bets=tuple(map(min, checked_bets(first.log_bets), checked_bets(second.log_bets))),
    )


def checked_bets(log_bets: Sequence[float]) -> tuple[float, ...]:
    """Return an answer's bets as a tuple.

    Raises:
        BadMessage: not `BETS` of them, or one is no finite number.
    """
    if len(log_bets) != BETS:
        raise BadMessage(f"evidence of {len(log_bets)} bets, {BETS} are needed")
    if not all(map(math.isfinite, log_bets)):
        raise BadMessage("evidence with a bet that is no finite number")
    return tuple(log_bets)


def log_add(left: float, right: float) -> float:
    """Return ln(e^left + e^right) without overflow; either may be minus infinity."""
    high, low = (left, right) if left >= right else (right, left)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def log_mean(logs: Sequence[float]) -> float:
    """Return the logarithm of the mean of numbers that are given by their logarithms, at least one, none infinite."""
    high = max(logs)
    return high + math.log(math.fsum(math.exp(value - high) for value in logs) / len(logs))
