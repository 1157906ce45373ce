"""Whatever honest scores do within their bounds, and whatever one gateway does, a challenge stays as rare as said."""

from __future__ import annotations

import itertools
import math
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.verification_world import HONEST, SAMPLINGS, Position, Provider, answer, counted_bets, flat_null, toy_null

from steelyard.verification.betting import GAINS, log_factor, weigh_answer
from steelyard.verification.eprocess import Suspicion, add_answer, is_challenge_due
from steelyard.verification.parameters import CheckParameters
from steelyard.verification.scores import Regime

PATHS = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 800
ANSWERS = 40
TOKENS = 8
MEAN_PPB = 50_000_000
ALICE, BOB = b"\x01" * 20, b"\x02" * 20

_weights = st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda found: sum(found) > 1e-6)


@given(_weights, st.lists(st.floats(0, 1), min_size=8, max_size=8), st.sampled_from(GAINS))
def test_bet_is_fair_for_every_distribution_with_that_mean(
    weights: list[float], scores: list[float], gain: float
) -> None:
    """The expected factor is 1 where the mean is the bound, and below where the bound is higher."""
    shares = [weight / sum(weights) for weight in weights]
    mean = min(1.0, math.fsum(share * score for share, score in zip(shares, scores, strict=False)))
    for bound in (mean, (1 + mean) / 2):
        expected = math.fsum(
            share * math.exp(log_factor(score, bound, gain)) for share, score in zip(shares, scores, strict=False)
        )
        assert expected <= 1 + 1e-9


@given(st.floats(1e-6, 0.5), st.integers(0, 2**32))
def test_answer_is_fair_though_each_token_depends_on_those_before(mean: float, seed: int) -> None:
    """Over all outcomes of 6 tokens whose distribution an adversary chooses by the past, with one mean, the expected
    e-value is at most 1.
    """
    null = flat_null(math.ceil(mean * 1e9))
    expected = 0.0
    for outcome in itertools.product((False, True), repeat=6):
        chance, positions = 1.0, []
        for place, is_high in enumerate(outcome):
            rng = random.Random(f"{seed} {outcome[:place]}")
            high = rng.choice((1.0, mean + (1 - mean) * rng.random()))  # two points, zero and `high`, of the same mean
            chance *= mean / high if is_high else 1 - mean / high
            positions.append(Position(not is_high, high if is_high else 0.0, high if is_high else 0.0, 0.0, 0.0))
        # a mismatch is 0 or 1: for scores below 1 only the other two have the mean that is claimed
        expected += chance * _mean_of_graded(weigh_answer(null, Regime.COOL, positions).log_bets)
    assert expected <= 1 + 1e-9


def _mean_of_graded(log_bets: tuple[float, ...]) -> float:
    graded = log_bets[len(GAINS) :]
    return math.fsum(map(math.exp, graded)) / len(graded)


def _share_above(rate: float, threshold: float, paths: int) -> float:
    """Share of sequences of answers, each token wrong with a chance, whose process ever reaches a threshold."""
    bets = counted_bets(flat_null(MEAN_PPB), TOKENS)
    rng, above = random.Random(4), 0
    for _ in range(paths):
        state = Suspicion()
        for _ in range(ANSWERS):
            state = add_answer(state, ALICE, bets[sum(rng.random() < rate for _ in range(TOKENS))])
            if state.log_e >= math.log(threshold):
                above += 1
                break
    return above / paths


@pytest.mark.timeout(900)
def test_process_stays_below_a_threshold_as_often_as_ville_says() -> None:
    """With scores of 0 and 1 and a mean of exactly the bound, at most 1 in 100 ever reaches 100; with thrice the mean
    nearly all do.
    """
    allowed = 0.01 + 4 * math.sqrt(0.01 * 0.99 / PATHS)
    assert _share_above(MEAN_PPB / 1e9, 100, PATHS) <= allowed
    assert _share_above(3 * MEAN_PPB / 1e9, 100, 60) > 0.5


@given(st.lists(st.integers(0, TOKENS), min_size=30, max_size=60), st.integers(0, 2**32))
def test_no_single_gateway_brings_a_challenge_about(lies: list[int], seed: int) -> None:
    """One gateway's answers may be anything; with another's honest ones no challenge at 10^6 is due."""
    bets, rng, state = counted_bets(flat_null(MEAN_PPB), TOKENS), random.Random(seed), Suspicion()
    for lie in lies:
        state = add_answer(state, ALICE, bets[lie])
        state = add_answer(state, BOB, bets[sum(rng.random() < MEAN_PPB / 1e9 for _ in range(TOKENS))])
        assert not is_challenge_due(state)


def test_honest_toy_machines_pass_though_callers_choose_confusing_prompts() -> None:
    """Gibberish and every sampling: after 200 audited answers even a threshold of 100 isn't reached."""
    rng = random.Random(6)
    null, state = toy_null(12_000, rng), Suspicion()
    for index in range(200):
        found = answer(Provider(noise=HONEST), SAMPLINGS[index % 4], 48, rng, 0.7)
        bets = weigh_answer(null, found.regime, found.positions).log_bets
        state = add_answer(state, (ALICE, BOB)[index % 2], bets)
        assert not is_challenge_due(state, CheckParameters(challenge_e=100))
    assert state.log_e < 1
