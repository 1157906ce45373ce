"""Many providers' e-processes at once: the twin of `verification.eprocess`, over arrays.

Each provider is audited step by step; each audit draws one recorded answer, whole, and one of three gateways. What is
simulated is only which answers are audited and who bought them: every number in them was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from steelyard.verification.betting import BETS, GAINS
from steelyard.verification.eprocess import SIZES, Suspicion, add_answer, is_challenge_due
from steelyard.verification.parameters import SHIPPED

GATEWAYS = 3
CLIP = 300.0
THRESHOLD = float(SHIPPED.challenge_e)
GAP_ALONE = np.arange(BETS - len(GAINS), BETS)
"""The bets on the log-probabilities: what is left of the evidence if it is a fingerprint alone."""

Array = np.ndarray


@dataclass(frozen=True)
class Run:
    """What came of it: for each provider the audits and the tokens to its challenge (inf: none), and the highest value
    that the process over all answers ever had, as a logarithm.
    """

    audits: Array
    tokens: Array
    highest: float

    def share_within(self, tokens: float) -> float:
        """Return the share of providers that were challenged within so many audited tokens."""
        return float((self.tokens <= tokens).mean())


def cells_of(log_bets: Array) -> Array:
    """Return what an answer multiplies each cell by: (answers, sizes x bets), cut to e^±300."""
    bets = np.exp(np.clip(log_bets, -CLIP, CLIP))
    return np.concatenate([1 - size + size * bets for size in SIZES], axis=1)


def audit(
    log_bets: Array, tokens: Array, *, nodes: int, audits: int, rng: np.random.Generator, clean: int = 0,
    bets: Array | None = None, is_stopped_when_due: bool = True,
) -> Run:  # fmt: skip
    """Audit so many providers so often, each time an answer drawn from those given.

    Args:
        log_bets: (answers, 24). tokens: (answers,). clean: answers audited before, of which no bet is left.
        bets: only these, by their index. is_stopped_when_due: stop once all are challenged.
    """
    table = cells_of(log_bets if bets is None else log_bets[:, bets])
    sums = np.zeros((1 + GATEWAYS, nodes, table.shape[1]))
    counts = np.full((1 + GATEWAYS, nodes), float(clean))
    spent, highest = np.zeros(nodes), 0.0
    ends_audits, ends_tokens = np.full(nodes, np.inf), np.full(nodes, np.inf)
    for step in range(1, audits + 1):
        drawn = rng.integers(len(table), size=nodes)
        gateways = rng.integers(GATEWAYS, size=nodes)
        spent += tokens[drawn]
        moves = np.arange(-1, GATEWAYS)[:, None] != gateways  # the first process is over all answers
        values = _advance(sums, counts, table[drawn], moves)
        highest = max(highest, float(values[0].max()))
        due = (values.min(axis=0) >= THRESHOLD) & np.isinf(ends_audits)
        ends_audits[due], ends_tokens[due] = step, spent[due]
        if is_stopped_when_due and np.isfinite(ends_audits).all():
            break
    return Run(ends_audits, ends_tokens, math.log(highest) if highest < math.inf else math.inf)


def _advance(sums: Array, counts: Array, cells: Array, moves: Array) -> Array:
    """S_t = f_t (S_(t-1) + w_t) where a process moves; return the values M of all processes."""
    fresh = counts + 1
    weights = 1 / (fresh * (fresh + 1))
    with np.errstate(over="ignore"):
        moved = cells * (sums + weights[..., None])
        np.copyto(sums, moved, where=moves[..., None])
        np.copyto(counts, fresh, where=moves)
        return sums.mean(axis=2) + 1 / (counts + 1)


def check_twin(log_bets: Array) -> None:
    """Hold `_advance` against the product's own process; raises AssertionError where they differ."""
    order = np.random.default_rng(5).integers(GATEWAYS, size=len(log_bets))
    sums, counts = np.zeros((1 + GATEWAYS, 1, BETS * len(SIZES))), np.zeros((1 + GATEWAYS, 1))
    table, state = cells_of(log_bets), Suspicion()
    seen = []
    for index, gateway in enumerate(order):
        if gateway not in seen:
            seen.append(int(gateway))
        moves = np.arange(-1, GATEWAYS)[:, None] != np.array([gateway])
        values = _advance(sums, counts, table[index : index + 1], moves)[:, 0]
        state = add_answer(state, bytes([gateway]) * 20, tuple(map(float, log_bets[index])))
        mine = (values[0], *(values[1 + place] for place in seen))
        theirs = (state.whole.log_e, *(process.log_e for process in state.without))
        assert np.allclose(np.log(mine), theirs, atol=1e-6), "the herd and eprocess differ"
        if len(seen) == GATEWAYS:
            assert (values.min() >= THRESHOLD) == is_challenge_due(state)
