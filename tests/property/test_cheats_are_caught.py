"""On toy machines: other weights are caught by one answer, coarse weights and cheap decoding within 1,000 tokens."""

from __future__ import annotations

import math
import random

import pytest
from tests.verification_world import SAMPLINGS, Provider, answer, toy_null

from steelyard.protocol.sampler import SamplerParams
from steelyard.verification.betting import weigh_answer
from steelyard.verification.eprocess import Suspicion, add_answer, is_challenge_due
from steelyard.verification.null import Null

GATEWAYS = [bytes([index]) * 20 for index in (1, 2, 3)]


@pytest.fixture(scope="module")
def null() -> Null:
    """A calibration on 48,000 tokens."""
    return toy_null(48_000, random.Random(1))


def _tokens_to_challenge(null: Null, provider: Provider, params: SamplerParams, rng: random.Random) -> int:
    state = Suspicion()
    for count in range(1, 33):
        found = answer(provider, params, 64, rng)
        bets = weigh_answer(null, found.regime, found.positions).log_bets
        state = add_answer(state, GATEWAYS[count % 3], bets)
        if is_challenge_due(state):
            return count * 64
    return 10**9


@pytest.mark.parametrize("params", SAMPLINGS)
def test_other_model_is_worth_a_million_after_one_answer_of_64_tokens(null: Null, params: SamplerParams) -> None:
    """Under every sampling, in each of 40 answers."""
    rng = random.Random(2)
    for _ in range(40):
        found = answer(Provider(is_other_model=True), params, 64, rng)
        assert weigh_answer(null, found.regime, found.positions).log_e > math.log(1e6)


@pytest.mark.parametrize("params", SAMPLINGS)
def test_coarse_weights_are_challenged_within_a_thousand_tokens(null: Null, params: SamplerParams) -> None:
    """Logits off by 0.4 nats, as 2- and 3-bit weights put them: 20 providers, three gateways."""
    rng = random.Random(3)
    assert all(_tokens_to_challenge(null, Provider(noise=0.4), params, rng) <= 1000 for _ in range(20))


@pytest.mark.parametrize("params", SAMPLINGS[:2])
def test_cheap_decoding_with_honest_evidence_is_challenged_within_a_thousand_tokens(
    null: Null, params: SamplerParams
) -> None:
    """Its log-probabilities are the real model's, so that the gap says nothing: the tokens' margins do."""
    rng = random.Random(4)
    cheat = Provider(noise=0.6, shows_true_logprobs=True)
    assert all(_tokens_to_challenge(null, cheat, params, rng) <= 1000 for _ in range(20))


def test_gap_alone_does_not_see_cheap_decoding(null: Null) -> None:
    """The bets on the gap lose, as for an honest provider; a fingerprint does not bind the sampler."""
    rng = random.Random(5)
    found = answer(Provider(noise=0.6, shows_true_logprobs=True), SAMPLINGS[1], 640, rng)
    assert max(weigh_answer(null, found.regime, found.positions).log_bets[16:]) < 0
