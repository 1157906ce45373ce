"""Whether honest nodes are ever convicted: aim 4, on answers that no calibration saw.

1. The recordings are split in two by request. Bounds are measured on one half, audits are drawn from the other, each an
   answer as it was recorded, whole; then the halves change places.
2. Once by bounds of the very pair of engines, and once by those that the package would ship (`make_null`) had it seen
   that half alone.
3. Beside it a rule with a single threshold, as live networks use it: an answer fails if its mean log-probability
   distance is above the 95 % quantile of the calibration half, a node is convicted when its share of fails is more than
   one standard deviation above 5 %, judged from 30 checks on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import herd
import numpy as np
from recordings import RecordedAnswer, Recording
from weighing import Array, Judged, half_of, judge_all, null_of, pair_of, shipped_recipe

from steelyard.verification.null import Null
from steelyard.verification.parameters import SHIPPED

AUDITS = 1_000
CHECKS, FIRST_CHECK, FALSE_RATE, Z = 300, 30, 0.05, 1.0
NODES = 2_000


def simulate(recordings: Sequence[Recording], audits: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Audit the honest nodes of every pair, so many audits for each."""
    runs: list[tuple[Judged, str, Array]] = []
    for recording in (found for found in recordings if found.is_honest):
        pair = pair_of(recording)
        for half in (0, 1):
            keep = partial(_is_in, half)
            for null, name in (
                (null_of(recordings, pair, keep), "own pair"),
                (shipped_recipe(pair, keep), "as shipped"),
            ):
                if null is not None:
                    runs.append(_run(recording, null, name, recordings, 1 - half))
    return [_audit(judged, by, limits, math.ceil(audits / AUDITS), rng) for judged, by, limits in runs]


def _is_in(half: int, answer: RecordedAnswer) -> bool:
    return half_of(answer) == half


def _run(
    recording: Recording, null: Null, by: str, recordings: Sequence[Recording], half: int
) -> tuple[Judged, str, Array]:
    judged = judge_all(recording, null, partial(_is_in, half))
    others = [found for found in recordings if found.is_honest and pair_of(found) == pair_of(recording)]
    gaps = [
        math.fsum(score.gap for score in answer.scores) / len(answer.scores)
        for found in others
        for answer in found.answers
        if half_of(answer) != half
    ]
    return judged, by, np.array([np.quantile(gaps, 1 - FALSE_RATE)])


def _audit(judged: Judged, by: str, limits: Array, nodes: int, rng: np.random.Generator) -> dict[str, Any]:
    run = herd.audit(judged.log_bets, judged.tokens, nodes=nodes, audits=AUDITS, rng=rng, is_stopped_when_due=False)
    fails = np.array(judged.gaps)[rng.integers(len(judged.gaps), size=(NODES, CHECKS))] > limits[0]
    counts = np.arange(1, CHECKS + 1)
    z = (fails.cumsum(axis=1) / counts - FALSE_RATE) / np.sqrt(FALSE_RATE * (1 - FALSE_RATE) / counts)
    return {
        "pair": judged.name,
        "calibrated_on": by,
        "answers": len(judged.factors),
        "tokens": int(judged.tokens.sum()),
        "scored": round(sum(judged.scored) / int(judged.tokens.sum()), 3),
        "nodes": nodes,
        "audits": nodes * AUDITS,
        "convicted": int(np.isfinite(run.audits).sum()),
        "highest_e": round(math.exp(min(700.0, run.highest)), 3),
        "worst_answer_e": round(math.exp(min(700.0, float(judged.log_e.max()))), 3),
        "failed_answers": int((judged.log_e >= math.log(SHIPPED.fail_e)).sum()),
        "single_threshold_convicts": round(float((z[:, FIRST_CHECK - 1 :] > Z).any(axis=1).mean()), 4),
    }


def rate_bound(events: int, count: int) -> float:
    """Return the 95 % upper bound of a rate after so many events (Poisson), exact for none."""
    if not events:
        return -math.log(0.05) / count
    low, high = 0.0, 10.0 * (events + 5)
    for _ in range(80):
        middle = (low + high) / 2
        below = math.fsum(math.exp(-middle + k * math.log(middle) - math.lgamma(k + 1)) for k in range(events + 1))
        low, high = (middle, high) if below > 0.05 else (low, middle)
    return high / count
