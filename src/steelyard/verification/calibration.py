"""From honest answers to a null: how high a score an honest provider may be expected to have, with room to spare.

1. A bound is an upper confidence bound for a mean, by the same bets as the check itself, turned round: valid for any
   bounded score, in the order measured, however skewed.
2. A token is judged by what was measured where honest machines differ *more*: at smaller leads, at higher entropy. So a
   caller who grinds prompts or seeds towards a bin's bad end gains nothing, and the worst bin is never judged.
3. Each family of prompts must hold by itself, gibberish included: the highest of their bounds counts.
4. What was not measured enough, or differs too often, stays without a bound.

Law: docs/spec/checking.md, section 4.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from steelyard.errors import BadRequest
from steelyard.verification.betting import log_factor, log_mean
from steelyard.verification.null import PPB, Null
from steelyard.verification.scores import (
    CHAT_CLIPS,
    CHAT_STRATA,
    SCORES,
    Clips,
    Regime,
    ScoredPosition,
    Strata,
    bin_of,
    bounded_scores,
)

ORDINARY, GIBBERISH = "ordinary", "gibberish"
"""Families of prompts that a calibration of text must have: like users', and made to confuse."""

CONFIDENCE_PPT = 1_000
"""Each bound is too low with a chance of at most 10^-9."""
SAFETY_BPS = 20_000
MIN_TOKENS = 100
"""Of each family in a pool of bins, before it bounds anything."""
HIGHEST_BOUND = 0.5
"""A stratum that needs a higher bound says nothing."""
UPPER_GAINS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0, 256.0)

_GRID = 1024
_HALVINGS = 30

_Bins = list[Counter[int]]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One honest answer and what its replay found: positions as `scores.ScoredPosition`, trusted."""

    family: str
    regime: Regime
    positions: tuple[ScoredPosition, ...]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration is of: manifest digest (hex of 32 bytes), and both engines with their versions."""

    manifest: str
    provider_engine: str
    validator_engine: str


def calibrate(
    samples: Iterable[Sample],
    pair: Pair,
    *,
    clips: Clips = CHAT_CLIPS,
    strata: Strata = CHAT_STRATA,
    required: Sequence[str] = (ORDINARY, GIBBERISH),
) -> Null:
    """Return the null of a pair of engines.

    Args:
        samples: honest answers of the manifest by the provider's engine, replayed on the validator's. Prompts,
            temperatures, masks and seeds must be at least as varied as what will be checked.
        required: families that must be there; `(ORDINARY,)` for kinds without prompts that confuse.

    Raises:
        BadRequest: a required family is missing, or nothing was measured; says which.
    """
    measured: dict[tuple[int, Regime, str], _Bins] = {}
    families: set[str] = set()
    answers = tokens = 0
    for sample in samples:
        answers += 1
        families.add(sample.family)
        for position in sample.positions:
            found = bounded_scores(position, clips)
            if found is None:
                continue
            tokens += 1
            for score, value in enumerate(found):
                key = score, sample.regime, sample.family
                if key not in measured:
                    measured[key] = [Counter() for _ in range(strata.bins(score))]
                measured[key][bin_of(strata, score, position)][math.ceil(value * _GRID)] += 1
    missing = sorted(set(required) - families)
    if missing or not tokens:
        lack = f"lacks prompts of the family {missing[0]!r}" if missing else "has no tokens"
        raise BadRequest(f"the calibration {lack}: measure {' and '.join(required)} prompts", param="samples")
    bounds = []
    for score in range(len(SCORES)):
        regimes = []
        for regime in Regime:
            bins = [measured.get((score, regime, family)) for family in sorted(families)]
            regimes.append(tuple(_bound_ppb(bins, index, strata, score) for index in range(strata.bins(score))))
        bounds.append(tuple(regimes))
    return Null(
        manifest=pair.manifest,
        provider_engine=pair.provider_engine,
        validator_engine=pair.validator_engine,
        families=tuple(sorted(families)),
        answers=answers,
        tokens=tokens,
        confidence_ppt=CONFIDENCE_PPT,
        safety_bps=SAFETY_BPS,
        clips=clips,
        strata=strata,
        bounds_ppb=tuple(bounds),
    )


def upper_mean(tally: Counter[int], chance: float) -> float:
    """Return an upper confidence bound for the mean of scores, 0 to 1.

    Args:
        tally: how often each score was seen, as whole steps of 1/1024 from 0 to 1024 (rounded up).
        chance: that the bound lies below the mean, at most, if that mean is the same all along.

    Source: betting confidence bound (arXiv 2010.09686, section 4): the least mean that bets on lower scores, mixed over
    `UPPER_GAINS`, refute at 1 / chance.
    """
    if not tally.total():
        return 1.0
    low, high = sum(step * count for step, count in tally.items()) / (_GRID * tally.total()), 1.0
    for _ in range(_HALVINGS):
        mean = (low + high) / 2
        low, high = (low, mean) if _log_refuted(tally, mean) >= -math.log(chance) else (mean, high)
    return high


def _log_refuted(tally: Counter[int], mean: float) -> float:
    return log_mean(
        [
            math.fsum(count * log_factor(1.0 - step / _GRID, 1.0 - mean, gain) for step, count in tally.items())
            for gain in UPPER_GAINS
        ]
    )


def _bound_ppb(families: Sequence[_Bins | None], index: int, strata: Strata, score: int) -> int | None:
    """The bound of one bin over all families; None where one of them was not measured enough."""
    highest = 0.0
    for bins in families:
        pools = [] if bins is None else [pool for pool in _pools(bins, index, strata, score) if _is_enough(pool)]
        if not pools:
            return None
        highest = max(highest, min(upper_mean(pool, CONFIDENCE_PPT / 10**12) for pool in pools))
    bound = highest * SAFETY_BPS / 10_000
    return math.ceil(bound * PPB) if bound <= HIGHEST_BOUND else None


def _pools(bins: _Bins, index: int, strata: Strata, score: int) -> Iterator[Counter[int]]:
    """The pools of bins that may bound a bin: runs of worse ones that begin next to it; itself where it is alone."""
    if len(bins) == 1:
        yield bins[0]
        return
    pool: Counter[int] = Counter()
    for worse in range(index - 1, -1, -1) if strata.is_better_high(score) else range(index + 1, len(bins)):
        pool = pool + bins[worse]
        yield pool


def _is_enough(pool: Counter[int]) -> bool:
    return pool.total() >= MIN_TOKENS
