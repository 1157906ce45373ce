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

    A small lead is a near-tie, where honest machines may differ; `MARGIN_CLIP` where there was no other choice.
    Both by the scores of the replaying machine alone; the lead does not depend on the claim.
    """
    survivors = _survivors(ids, logprobs, params)
    greedy = params.temperature < GREEDY_BELOW
    key = _keyed(seed, position)
    top, scale = survivors[0][0], 0.0 if greedy else params.temperature
    best, second, claimed = -math.inf, -math.inf, -math.inf
    for negative, candidate in survivors if not greedy else _ranked(ids, logprobs):
        score = (top - negative) + (scale * _noise(key, candidate) if scale else 0.0)
        best, second = (score, best) if score > best else (best, max(second, score))
        if candidate == token_id:
            claimed = score
    return min(MARGIN_CLIP, best - claimed), min(MARGIN_CLIP, best - second)


def _ranked(ids: Sequence[int], logprobs: Sequence[float]) -> list[tuple[float, int]]:
    """Candidates as (negated log-probability, id): likeliest first, the lower id first among equals."""
    if not ids:
        raise ValueError("no candidates to choose from")
    return sorted((-logprob, token_id) for token_id, logprob in zip(ids, logprobs, strict=True))[:MAX_CANDIDATES]


def _survivors(ids: Sequence[int], logprobs: Sequence[float], params: SamplerParams) -> list[tuple[float, int]]:
    ranked = _ranked(ids, logprobs)
    if params.temperature < GREEDY_BELOW:
        return ranked[:1]
    if params.top_k:
        ranked = ranked[: params.top_k]
    if params.top_p >= 1.0:
        return ranked
    top, inverse = ranked[0][0], 1.0 / params.temperature
    weights = [math.exp((top - negative) * inverse) for negative, _ in ranked]
    total = 0.0
    for weight in weights:  # one by one: `sum` is compensated from Python 3.12 on
        total += weight
    enough, before = params.top_p * total, 0.0
    for index, weight in enumerate(weights):
        if before >= enough:
            return ranked[:index]
        before += weight
    return ranked


def _keyed(seed: int, position: int) -> hashlib._Hash:
    return hashlib.sha256(_DOMAIN + seed.to_bytes(8, "big") + position.to_bytes(4, "big"))


def _noise(key: hashlib._Hash, token_id: int) -> float:
    hasher = key.copy()
    hasher.update(token_id.to_bytes(4, "big"))
    uniform = ((int.from_bytes(hasher.digest()[:8], "big") >> 12) + 0.5) * 2.0**-52
    return -math.log(-math.log(uniform))
