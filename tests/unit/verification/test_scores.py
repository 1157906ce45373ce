"""verification/scores.py: bounded scores and the strata they are judged in."""

from __future__ import annotations

import math

import pytest
from tests.verification_world import Position

from steelyard.verification.scores import (
    CHAT_CLIPS,
    CHAT_STRATA,
    PLAIN_STRATA,
    SCORES,
    Regime,
    bin_of,
    bounded_scores,
    regime_of,
)


def test_scores_of_an_honest_token_are_zero() -> None:
    """The same token, no margin, the same log-probability."""
    assert bounded_scores(Position(True, 0.0, 0.0, 1.0, 1.0), CHAT_CLIPS) == (0.0, 0.0, 0.0)


def test_scores_are_cut_to_one() -> None:
    """However far off a token is, no score is above 1; below the clip it is the share of it."""
    assert bounded_scores(Position(False, 16.0, 8.0, 1.0, 1.0), CHAT_CLIPS) == (1.0, 1.0, 1.0)
    assert bounded_scores(Position(False, 0.25, 0.5, 1.0, 1.0), CHAT_CLIPS) == (1.0, 0.25, 0.5)


@pytest.mark.parametrize("field", [1, 2, 3, 4])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001])
def test_position_with_an_impossible_number_has_no_scores(field: int, value: float) -> None:
    """What can't be says nothing, neither for nor against."""
    numbers = [True, 0.5, 0.5, 0.5, 0.5]
    numbers[field] = value
    assert bounded_scores(Position(*numbers), CHAT_CLIPS) is None


def test_bins_follow_the_lead_and_for_the_gap_the_entropy() -> None:
    """An edge belongs to the bin above it; without edges there is one bin."""
    position = Position(True, 0.0, 0.0, 0.1, 1 / 64)
    assert [bin_of(CHAT_STRATA, score, position) for score in range(3)] == [1, 1, 2]
    assert [CHAT_STRATA.bins(score) for score in range(3)] == [9, 9, 7]
    assert [bin_of(PLAIN_STRATA, score, position) for score in range(len(SCORES))] == [0, 0, 0]


@pytest.mark.parametrize(("temperature", "regime"), [(0.0, Regime.COOL), (1.0, Regime.COOL), (1.01, Regime.HOT)])
def test_regime_follows_the_temperature(temperature: float, regime: Regime) -> None:
    """Up to 1 an answer is cool."""
    assert regime_of(temperature) is regime
