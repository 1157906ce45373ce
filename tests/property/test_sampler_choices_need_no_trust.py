"""A choice depends on the candidates, the request and the order's seed alone, and its margin is zero for itself and
no other.
"""

from __future__ import annotations

import math
import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from steelyard.protocol.sampler import MARGIN_CLIP, SamplerParams, gumbel, margin, sample

_logprobs = st.floats(min_value=-40, max_value=0, width=32)
_candidates = st.dictionaries(st.integers(0, 2**32 - 1), _logprobs, min_size=1, max_size=64)
_params = st.builds(
    SamplerParams,
    temperature=st.floats(0, 2),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 64),
)
_seeds = st.integers(0, 2**64 - 1)
_positions = st.integers(0, 2**32 - 1)


@given(_candidates, _params, _seeds, _positions, st.randoms(use_true_random=False))
def test_choice_does_not_depend_on_the_order_of_the_candidates(
    candidates: dict[int, float], params: SamplerParams, seed: int, position: int, shuffle: random.Random
) -> None:
    """Shuffled candidates give the same choice, and it is one of them."""
    pairs = list(candidates.items())
    first = sample([i for i, _ in pairs], [x for _, x in pairs], params, seed, position)
    shuffle.shuffle(pairs)
    assert sample([i for i, _ in pairs], [x for _, x in pairs], params, seed, position) == first
    assert first in candidates


@given(_candidates, _params, _seeds, _positions)
def test_margin_is_zero_for_the_choice_and_positive_for_every_other(
    candidates: dict[int, float], params: SamplerParams, seed: int, position: int
) -> None:
    """Only the token that the rule chooses has no margin (or one as likely as it, under greedy decoding)."""
    ids, logprobs = list(candidates), list(candidates.values())
    chosen = sample(ids, logprobs, params, seed, position)
    assert margin(ids, logprobs, params, seed, position, chosen) == 0
    for token_id in ids:
        found = margin(ids, logprobs, params, seed, position, token_id)
        assert 0 <= found <= MARGIN_CLIP
        if token_id != chosen and candidates[token_id] < candidates[chosen] - 1 and params.temperature < 2**-10:
            assert found > 0


@given(_seeds, _positions, st.integers(0, 2**32 - 1))
def test_noise_is_always_a_finite_number(seed: int, position: int, token_id: int) -> None:
    """No hash leads to an infinity: the uniform number lies strictly between 0 and 1."""
    assert math.isfinite(gumbel(seed, position, token_id))


@given(_candidates, _params, _seeds, _positions)
def test_choice_survives_float32_storage(
    candidates: dict[int, float], params: SamplerParams, seed: int, position: int
) -> None:
    """Candidates that went through float32 bytes choose the same token."""
    ids, logprobs = list(candidates), list(candidates.values())
    stored = list(struct.unpack(f"<{len(ids)}f", struct.pack(f"<{len(ids)}f", *logprobs)))
    assert sample(ids, stored, params, seed, position) == sample(ids, logprobs, params, seed, position)
