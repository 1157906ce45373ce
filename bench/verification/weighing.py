"""Recordings under a null: what each answer is worth as evidence, as arrays.

1. The bounds come from honest recordings (`null_of`) or from the package (`shipped_null`); the rules of both are the
   product's own: `verification.calibration`, `verification.null`.
2. A *pair* is who answers and who replays, by engine: `llama.cpp` or `transformers`. Other threads, slots and batch
   shapes are machines of one engine, so they share a null, as they do in the product.
3. `factors` does what `betting.weigh_answer` does, token by token, so that blocks of tokens can be drawn; `check_twin`
   holds both against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from make_null import samples
from recordings import RecordedAnswer, Recording

from steelyard.errors import BadRequest
from steelyard.verification.betting import BETS, GAINS, weigh_answer
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Pair, Sample, calibrate
from steelyard.verification.null import PPB, Null, decode_null
from steelyard.verification.scores import CHAT_CLIPS, CHAT_STRATA, SCORES, bounded_scores, regime_of

ENGINES = {"llama": "llama.cpp", "torch": "transformers"}
CHEATS_ENGINE = "llama.cpp"
OTHER_KERNEL = "batch-256"
_GAINS = np.array(GAINS)

Array = np.ndarray
Keep = Callable[[RecordedAnswer], bool]


@dataclass(frozen=True)
class Judged:
    """A recording's answers under a null: log factors of the 24 bets, one row a token; how many tokens had a bound."""

    name: str
    factors: tuple[Array, ...]
    scored: tuple[int, ...]
    gaps: tuple[float, ...]

    @property
    def tokens(self) -> Array:
        """Tokens of each answer."""
        return np.array([len(rows) for rows in self.factors])

    @property
    def log_bets(self) -> Array:
        """What each bet becomes in each answer: (answers, 24)."""
        return np.array([rows.sum(axis=0) for rows in self.factors])

    @property
    def log_e(self) -> Array:
        """Each answer's e-value, as a logarithm."""
        return log_mean(self.log_bets)


def log_mean(logs: Array) -> Array:
    """Return the logarithm of the mean over the last axis of numbers given by their logarithms."""
    high = logs.max(axis=-1, keepdims=True)
    return high[..., 0] + np.log(np.exp(logs - high).mean(axis=-1))


def pair_of(recording: Recording) -> tuple[str, str]:
    """Return the engines of a recording: who answered, who replayed."""
    provider, validator = recording.provider.split("-")[0], recording.validator.split("-")[0]
    return ENGINES.get(provider, CHEATS_ENGINE), ENGINES[validator]


def half_of(answer: RecordedAnswer) -> int:
    """Return which half an answer belongs to, by its request: the same request is in the same half for everybody, and
    the halves share no gibberish prompt.
    """
    return answer.request // 8 % 2


def null_of(recordings: Iterable[Recording], pair: tuple[str, str], keep: Keep = lambda _: True) -> Null | None:
    """Return the null of a pair of engines from the honest recordings of it; None where they lack a family.

    As `steelyard calibrate` does, it holds pairs of machines whose kernels round otherwise apart, as families.
    """
    samples = []
    for recording in recordings:
        if not recording.is_honest or pair_of(recording) != pair:
            continue
        kernels = [name.endswith(OTHER_KERNEL) for name in (recording.provider, recording.validator)]
        suffix = " other-kernel" if any(kernels) and pair[0] == pair[1] else ""
        for answer in filter(keep, recording.answers):
            family = (GIBBERISH if answer.sort == "gibberish" else ORDINARY) + suffix
            regime = regime_of(answer.sampling.temperature)
            samples.append(Sample(family=family, regime=regime, positions=answer.scores))
    try:
        return calibrate(samples, Pair(manifest="00" * 32, provider_engine=pair[0], validator_engine=pair[1]))
    except BadRequest:
        return None


def shipped_recipe(pair: tuple[str, str], keep: Keep) -> Null | None:
    """Return what the package would ship (`make_null`) had it seen only some answers; None where it ships nothing."""
    if pair[0] != CHEATS_ENGINE:
        return None
    found = Pair(manifest="00" * 32, provider_engine=CHEATS_ENGINE, validator_engine=CHEATS_ENGINE)
    return calibrate(samples(keep), found)


def shipped_null(pair: tuple[str, str]) -> Null | None:
    """Return the package's null for text and a pair of engines, the one with most tokens; None if it ships none."""
    found = []
    for item in resources.files("steelyard.validator").joinpath("nulls").iterdir():
        if item.name.endswith(".json"):
            null = decode_null(item.read_bytes())
            engines = (null.provider_engine.split()[0], null.validator_engine.split()[0])
            if engines == pair and null.clips == CHAT_CLIPS and null.strata == CHAT_STRATA:
                found.append(null)
    return max(found, key=lambda null: null.tokens, default=None)


def judge_all(recording: Recording, null: Null, keep: Keep = lambda _: True) -> Judged:
    """Weigh a recording's answers."""
    answers = list(filter(keep, recording.answers))
    found = [factors(null, answer) for answer in answers]
    gaps = tuple(math.fsum(score.gap for score in answer.scores) / len(answer.scores) for answer in answers)
    name = f"{recording.provider} by {recording.validator}"
    return Judged(name, tuple(rows for rows, _ in found), tuple(scored for _, scored in found), gaps)


def factors(null: Null, answer: RecordedAnswer) -> tuple[Array, int]:
    """Return the logarithms of what each token multiplies each bet by, and how many tokens had any bound."""
    regime = regime_of(answer.sampling.temperature)
    values, bounds = np.zeros((len(answer.scores), len(SCORES))), np.full((len(answer.scores), len(SCORES)), np.nan)
    for place, position in enumerate(answer.scores):
        found = bounded_scores(position, null.clips)
        if found is None:
            continue
        values[place] = found
        for index in range(len(SCORES)):
            bound = null.bound_ppb(index, regime, position)
            bounds[place, index] = np.nan if bound is None else bound / PPB
    rows = np.log1p(values[..., None] * _GAINS) - np.log1p(bounds[..., None] * _GAINS)
    scored = int((~np.isnan(bounds)).any(axis=1).sum())
    return np.nan_to_num(rows, nan=0.0).reshape(len(values), BETS), scored


def check_twin(null: Null, answers: Sequence[RecordedAnswer]) -> None:
    """Hold `factors` against the product's own weighing; raises AssertionError where they differ."""
    for answer in answers:
        rows, scored = factors(null, answer)
        own = weigh_answer(null, regime_of(answer.sampling.temperature), answer.scores)
        assert np.allclose(rows.sum(axis=0), own.log_bets, atol=1e-9), "factors and weigh_answer differ"
        assert scored == own.scored, "factors and weigh_answer count other tokens"


def count_bounds(null: Null) -> Iterator[tuple[str, int]]:
    """Yield how many bins of each score have a bound, over both regimes."""
    for name, regimes in zip(SCORES, null.bounds_ppb, strict=True):
        yield name, sum(bound is not None for bins in regimes for bound in bins)
