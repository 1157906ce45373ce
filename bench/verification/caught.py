"""How soon cheats are caught, on recorded answers: aims 1 to 3.

1. An audited answer of 64 tokens is either a recorded answer's first 64, or 4 blocks of 16 neighbouring tokens, each
   drawn from recorded answers of one sampling at about the same place (8 tokens off at most): answers begin openly, and
   may end in a loop that any weights would go on with. So there are more answers than were recorded. The share with
   blocks from anywhere is told beside it: it is the harder question, and not that of an answer's first 64 tokens.
2. Audited tokens to a challenge: answers drawn whole, bought over three gateways, each alike often.
3. Beside it, what a log-probability fingerprint alone would find, and what a provider with 1,000 clean answers behind
   it may still do.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import herd
import numpy as np
from recordings import Recording
from weighing import Array, Judged, judge_all, log_mean

from steelyard.verification.null import Null
from steelyard.verification.parameters import SHIPPED

ANSWER_TOKENS, BLOCK, OFF = 64, 16, 8
MAX_TOKENS = 4096
SIMULATED_ANSWERS = 100_000
NODES, AUDITS = 2_000, 400
WITHIN_TOKENS = 1_000
CLEAN = 1_000
CURVE = tuple(range(0, 2_001, 25))

OTHER_MODELS = ("changed", "pruned")
COARSE = ("q2", "q3")
FINE = ("q4", "q8")
PREFILL = "+prefill"


def catch(recording: Recording, null: Null, rng: np.random.Generator) -> dict[str, Any]:
    """Return how a recorded cheat fares under a null."""
    judged = judge_all(recording, null)
    shuffled = lambda **more: herd.audit(  # noqa: E731
        judged.log_bets, judged.tokens, nodes=NODES, audits=AUDITS, rng=rng, **more
    )
    whole, gaps, later = shuffled(), shuffled(bets=herd.GAP_ALONE), shuffled(clean=CLEAN)
    first = judged.log_bets.max(axis=1)
    return {
        "provider": recording.provider,
        "validator": recording.validator,
        "answers": len(judged.factors),
        "tokens": int(judged.tokens.sum()),
        "mismatch": round(mismatch(recording), 4),
        "scored": round(sum(judged.scored) / judged.tokens.sum(), 3),
        "within_answer": within_answer(recording, judged, rng),
        "within_1000_tokens": whole.share_within(WITHIN_TOKENS),
        "median_tokens": finite(np.median(whole.tokens)),
        "tokens_for_99": finite(np.quantile(whole.tokens, 0.99, method="higher")),
        "median_answers": finite(np.median(whole.audits)),
        "gap_alone_within_1000_tokens": gaps.share_within(WITHIN_TOKENS),
        "gap_alone_ever": float(np.isfinite(gaps.tokens).mean()),
        "after_clean_within_1000_tokens": later.share_within(WITHIN_TOKENS),
        "median_nats_of_best_bet": round(float(np.median(first)), 2),
        "curve": [round(whole.share_within(tokens), 4) for tokens in CURVE],
    }


def mismatch(recording: Recording) -> float:
    """Return the share of tokens that the replay would not have chosen."""
    scores = [score for answer in recording.answers for score in answer.scores]
    return sum(not score.is_match for score in scores) / len(scores)


def within_answer(recording: Recording, judged: Judged, rng: np.random.Generator) -> dict[str, Any]:
    """Return the share of audited answers of 64 tokens that are worth 10^6 alone."""
    threshold = math.log(SHIPPED.challenge_e)
    whole = [rows[:ANSWER_TOKENS].sum(axis=0) for rows in judged.factors if len(rows) >= ANSWER_TOKENS]
    worth = log_mean(np.array(whole)) if whole else np.array([])
    caught = int((worth >= threshold).sum())
    simulated, anywhere = (_blocks(recording, judged.factors, rng, off) for off in (OFF, MAX_TOKENS))
    return {
        "answers": len(whole),
        "caught": caught,
        "least_nats": round(float(worth.min()), 1) if whole else None,
        "simulated": SIMULATED_ANSWERS if len(simulated) else 0,
        "share_of_simulated": round(float((simulated >= threshold).mean()), 5) if len(simulated) else None,
        "share_from_anywhere": round(float((anywhere >= threshold).mean()), 5) if len(anywhere) else None,
        "lower_bound": round(share_bound(caught, len(whole)), 4),
    }


def _blocks(recording: Recording, rows: Sequence[Array], rng: np.random.Generator, off: int) -> Array:
    """The e-values (logarithms) of answers made of blocks, each answer's of one sampling, samplings as recorded; each
    block is at most so many tokens off its place.
    """
    places = range(0, ANSWER_TOKENS, BLOCK)
    blocks: dict[Any, list[list[Array]]] = defaultdict(lambda: [[] for _ in places])
    answers: Counter[Any] = Counter()
    for answer, found in zip(recording.answers, rows, strict=True):
        key = (answer.sampling.temperature, answer.sampling.top_p, answer.sampling.top_k)
        answers[key] += 1
        for pool, place in zip(blocks[key], places, strict=True):
            starts = range(max(0, place - off), min(place + off, len(found) - BLOCK) + 1)
            pool += [found[start : start + BLOCK].sum(axis=0) for start in starts]
    keys = [key for key, pools in blocks.items() if all(pools)]
    total = sum(answers[key] for key in keys)
    out = []
    for key in keys:
        count = round(SIMULATED_ANSWERS * answers[key] / total)
        drawn = [np.array(pool)[rng.integers(len(pool), size=count)] for pool in blocks[key]]
        out.append(log_mean(np.sum(drawn, axis=0)))
    return np.concatenate(out) if out else np.array([])


def share_bound(hits: int, count: int, confidence: float = 0.95) -> float:
    """Return the exact lower bound of a share (Clopper-Pearson) after so many hits; 0 where nothing was seen."""
    if not hits:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = math.fsum(math.comb(count, k) * middle**k * (1 - middle) ** (count - k) for k in range(hits, count + 1))
        low, high = (middle, high) if tail < 1 - confidence else (low, middle)
    return low


def finite(value: Any) -> float | None:
    """Return a number for JSON; None for infinity."""
    return float(value) if math.isfinite(value) else None
