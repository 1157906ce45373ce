"""A toy model for tests of checking: honest machines that differ in the last digits, coarser weights, another model.

Logits are drawn, noise is added per machine, and everything after that is real: the portable sampler chooses, the
portable sampler judges. What real engines differ by is measured in bench/verification.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

from steelyard.protocol.sampler import SamplerParams, judge, sample
from steelyard.verification.betting import weigh_answer
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Pair, Sample, calibrate
from steelyard.verification.null import Null
from steelyard.verification.scores import CHAT_CLIPS, PLAIN_STRATA, SCORES, Regime, regime_of

CANDIDATES = 20
HONEST = 0.01
PAIR = Pair(manifest="ab" * 32, provider_engine="toy 1/one", validator_engine="toy 1/other")
SAMPLINGS = (SamplerParams(0.0), SamplerParams(0.8), SamplerParams(1.5), SamplerParams(1.0, 0.9))


class Position(NamedTuple):
    """One position's comparison, in the shape of `services.port.Score`."""

    is_match: bool
    margin: float
    gap: float
    entropy: float
    lead: float


@dataclass(frozen=True)
class Provider:
    """Who answers: by how much its logits differ from the true ones, or whether they are another model's.

    `shows_true_logprobs`: it decodes with its own logits and prepares the evidence by a prefill of the real model.
    """

    noise: float = HONEST
    is_other_model: bool = False
    shows_true_logprobs: bool = False


def answer(provider: Provider, params: SamplerParams, tokens: int, rng: random.Random, flat: float = 2.0) -> Sample:
    """Return a provider's answer as an honest validator's replay finds it; `flat` spreads the logits less the lower
    it is.
    """
    seed, positions, ids = rng.getrandbits(64), [], list(range(CANDIDATES))
    for place in range(tokens):
        true = [rng.gauss(0, flat) for _ in ids]
        base = [rng.gauss(0, flat) for _ in ids] if provider.is_other_model else true
        made = _logprobs([value + rng.gauss(0, provider.noise) for value in base])
        mine = _logprobs([value + rng.gauss(0, HONEST) for value in true])
        token = sample(ids, made, params, seed, place)
        margin, lead = judge(ids, mine, params, seed, place, token)
        shown = _logprobs([value + rng.gauss(0, HONEST) for value in true]) if provider.shows_true_logprobs else made
        entropy = -math.fsum(math.exp(value) * value for value in mine)
        positions.append(Position(margin == 0, margin, abs(shown[token] - mine[token]), entropy, lead))
    regime = regime_of(params.temperature)
    return Sample(family=ORDINARY if flat > 1 else GIBBERISH, regime=regime, positions=tuple(positions))


def toy_null(tokens: int, rng: random.Random) -> Null:
    """Return a null calibrated on so many tokens of honest answers, half of them to gibberish."""
    each = tokens // (64 * len(SAMPLINGS) * 2)
    return calibrate(
        (answer(Provider(), params, 64, rng, flat) for params in SAMPLINGS for flat in (2.0, 0.7) for _ in range(each)),
        PAIR,
    )


def flat_null(bound_ppb: int | None) -> Null:
    """Return a null with one bin a score and the same bound everywhere."""
    return Null(
        manifest=PAIR.manifest,
        provider_engine=PAIR.provider_engine,
        validator_engine=PAIR.validator_engine,
        families=(ORDINARY,),
        answers=1,
        tokens=1,
        confidence_ppt=1000,
        safety_bps=10_000,
        clips=CHAT_CLIPS,
        strata=PLAIN_STRATA,
        bounds_ppb=tuple(tuple((bound_ppb,) for _ in Regime) for _ in SCORES),
    )


def counted_bets(null: Null, tokens: int) -> list[tuple[float, ...]]:
    """Return, for each number of worst-case tokens (all scores 1) among so many (else all 0), the answer's bets."""
    good, bad = Position(True, 0.0, 0.0, 0.0, 0.0), Position(False, 16.0, 8.0, 0.0, 0.0)
    return [
        weigh_answer(null, Regime.COOL, [bad] * count + [good] * (tokens - count)).log_bets
        for count in range(tokens + 1)
    ]


def _logprobs(logits: list[float]) -> list[float]:
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(value - top) for value in logits))
    return [value - total for value in logits]
