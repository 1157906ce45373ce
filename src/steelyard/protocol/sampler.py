"""The portable sampler: who chooses the next token, by a rule that anyone can follow again.

1. It sees at most 64 candidates, each a token id and a float32 log-probability, and nothing else of the model.
2. Its randomness is a hash of seed, position and token id: no state, no order of drawing, the same on every machine.
3. Arithmetic is IEEE binary64 in the order written in the law. Two honest machines may differ in the last bit of a
   logarithm, so a choice is judged by its `margin`, never by equality.
4. Nothing here reads a clock, a socket or a file.

Law: docs/spec/sampler.md.  Vectors: tests/vectors/sampler.json.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import msgspec

SAMPLER = "steelyard-gumbel-1"
"""The name that a manifest gives this rule; another rule gets another name."""

MAX_CANDIDATES = 64
GREEDY_BELOW = 2.0**-10
"""Temperatures below this choose the most likely token."""

MARGIN_CLIP = 16.0
"""The margin, in nats, of a token that was not among the survivors at all; larger ones are cut to it."""

MASK_EDGE = 0.5
"""Nats: a choice that a shift of less would put in or out of top_k, top_p or the 64 has no lead."""

_DOMAIN = b"steelyard/sampler/1"


class SamplerParams(msgspec.Struct, frozen=True, gc=False):
    """What a request may turn: temperature 0 to 2, top_p above 0 up to 1, top_k 1 to 64 (0: all candidates)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


def gumbel(seed: int, position: int, token_id: int) -> float:
    """Return the standard Gumbel noise of one token at one position.

    Args:
        seed: the order's, 0 to 2^64-1.
        position: index of the token in the answer, from 0, below 2^32.
        token_id: 0 to 2^32-1.

    Source: docs/spec/sampler.md, section 3: u = (first 52 bits of SHA-256 + 1/2) / 2^52, g = -ln(-ln u).
    """
    return _noise(_keyed(seed, position), token_id)


def sample(ids: Sequence[int], logprobs: Sequence[float], params: SamplerParams, seed: int, position: int) -> int:
    """Return the token id that the rule chooses.

    Args:
        ids, logprobs: the candidates, in any order, of equal length, at least one; float32 values in nats.
        params, seed, position: as in the request, the order, and the answer so far.

    Raises:
        ValueError: no candidates, or the lengths differ.
    """
    survivors = _survivors(ids, logprobs, params)
    if len(survivors) == 1 or params.temperature < GREEDY_BELOW:
        return survivors[0][1]
    key = _keyed(seed, position)
    top, inverse = survivors[0][0], 1.0 / params.temperature
    best_score, best_id = -math.inf, -1
    for negative, token_id in survivors:
        score = (top - negative) * inverse + _noise(key, token_id)
        if score > best_score or (score == best_score and token_id < best_id):
            best_score, best_id = score, token_id
    return best_id


def margin(
    ids: Sequence[int], logprobs: Sequence[float], params: SamplerParams, seed: int, position: int, token_id: int
) -> float:
    """Return by how many nats a token missed being chosen: 0.0 when the rule chooses it, at most `MARGIN_CLIP`.

    Args:
        ids, logprobs: the candidates as the replaying machine computed them; trusted.
        token_id: the token that was claimed; untrusted.

    Source: docs/spec/sampler.md, section 5 (Token-DiFR's margin, arXiv 2511.20621, over our own noise).
    """
    return judge(ids, logprobs, params, seed, position, token_id)[0]


def judge(
    ids: Sequence[int], logprobs: Sequence[float], params: SamplerParams, seed: int, position: int, token_id: int
) -> tuple[float, float]:
    """Return a claimed token's margin, and the lead: by how many nats the choice was ahead of the next one.

    A small lead is a near-tie, where honest machines may differ; `MARGIN_CLIP` where there was no other choice, 0 where
    it hangs on the edge of top_k, top_p or the 64 which token was chosen. Both by the scores of the replaying machine
    alone; the lead does not depend on the claim.
    """
    ranked = _ranked(ids, logprobs)
    greedy = params.temperature < GREEDY_BELOW
    survivors = ranked if greedy else ranked[: _count_survivors(ranked, params)]
    key = _keyed(seed, position)
    top, scale = ranked[0][0], 0.0 if greedy else params.temperature
    best, second, claimed, place = -math.inf, -math.inf, -math.inf, 0
    for index, (negative, candidate) in enumerate(survivors):
        score = (top - negative) + (scale * _noise(key, candidate) if scale else 0.0)
        if score > best:
            best, second, place = score, best, index
        else:
            second = max(second, score)
        if candidate == token_id:
            claimed = score
    lead = min(MARGIN_CLIP, best - second)
    if not greedy:
        distances = _edge_distances(ranked, params)
        could_win = any(
            distance < MASK_EDGE and top - negative + scale * _noise(key, candidate) > best - MASK_EDGE
            for distance, (negative, candidate) in list(zip(distances, ranked, strict=True))[len(survivors) :]
        )
        if could_win or distances[place] < MASK_EDGE:
            lead = 0.0
    return min(MARGIN_CLIP, best - claimed), lead


def _ranked(ids: Sequence[int], logprobs: Sequence[float]) -> list[tuple[float, int]]:
    """Candidates as (negated log-probability, id): likeliest first, the lower id first among equals."""
    if not ids:
        raise ValueError("no candidates to choose from")
    return sorted((-logprob, token_id) for token_id, logprob in zip(ids, logprobs, strict=True))[:MAX_CANDIDATES]


def _survivors(ids: Sequence[int], logprobs: Sequence[float], params: SamplerParams) -> list[tuple[float, int]]:
    ranked = _ranked(ids, logprobs)
    return ranked[: 1 if params.temperature < GREEDY_BELOW else _count_survivors(ranked, params)]


def _count_survivors(ranked: Sequence[tuple[float, int]], params: SamplerParams) -> int:
    """How many of the ranked candidates are left by top_k and top_p, at a temperature that isn't greedy."""
    limit = min(params.top_k or MAX_CANDIDATES, len(ranked))
    if params.top_p >= 1.0:
        return limit
    before, total = _masses(ranked[:limit], params.temperature)
    enough = params.top_p * total
    return next((index for index, mass in enumerate(before) if mass >= enough), limit)


def _masses(ranked: Sequence[tuple[float, int]], temperature: float) -> tuple[list[float], float]:
    """The weight that stands before each candidate, and the total of all."""
    top, inverse = ranked[0][0], 1.0 / temperature
    before, total = [], 0.0
    for negative, _ in ranked:  # one by one: `sum` is compensated from Python 3.12 on
        before.append(total)
        total += math.exp((top - negative) * inverse)
    return before, total


def _edge_distances(ranked: Sequence[tuple[float, int]], params: SamplerParams) -> list[float]:
    """By how many nats the log-probabilities must shift until each candidate falls out of the survivors, or joins them.

    By count: its distance to the first one beyond, or to the last one within; a 65th is taken to be as likely as the
    64th. By top_p: all that stands before it shifts alike, so that the logit of its share moves by shift / temperature.
    The first candidate never falls out.
    """
    limit = min(params.top_k or MAX_CANDIDATES, len(ranked))
    within, beyond = -ranked[limit - 1][0], -ranked[min(limit, len(ranked) - 1)][0]
    is_cut = limit < len(ranked) or limit == MAX_CANDIDATES
    distances = [math.inf]
    for index, (negative, _) in enumerate(ranked[1:], 1):
        away = (-negative - beyond if is_cut else math.inf) if index < limit else within + negative
        distances.append(away)
    if params.top_p < 1.0:
        before, total = _masses(ranked[:limit], params.temperature)
        edge = math.log(params.top_p) - math.log1p(-params.top_p)
        for index, mass in enumerate(before[1:], 1):
            share = mass / total
            logit = math.log(share) - math.log1p(-share) if 0.0 < share < 1.0 else math.inf
            distances[index] = min(distances[index], abs(logit - edge) * params.temperature)
    return distances


def _keyed(seed: int, position: int) -> hashlib._Hash:
    return hashlib.sha256(_DOMAIN + seed.to_bytes(8, "big") + position.to_bytes(4, "big"))


def _noise(key: hashlib._Hash, token_id: int) -> float:
    hasher = key.copy()
    hasher.update(token_id.to_bytes(4, "big"))
    uniform = ((int.from_bytes(hasher.digest()[:8], "big") >> 12) + 0.5) * 2.0**-52
    return -math.log(-math.log(uniform))
