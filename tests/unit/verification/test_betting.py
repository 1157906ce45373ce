"""verification/betting.py: what one answer is worth, by docs/spec/checking.md, section 5."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.verification_world import Position, flat_null

from steelyard.errors import BadMessage
from steelyard.verification.betting import (
    BETS,
    GAINS,
    AnswerEvidence,
    checked_bets,
    least_evidence,
    log_add,
    log_factor,
    log_mean,
    weigh_answer,
)
from steelyard.verification.scores import Regime

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "checking.json").read_text())
GOOD, BAD = Position(True, 0.0, 0.0, 0.0, 0.0), Position(False, 16.0, 8.0, 0.0, 0.0)


@pytest.mark.parametrize("case", VECTORS["answers"])
def test_bets_equal_the_vectors(case: dict[str, Any]) -> None:
    """The vectors' bets were computed with exact fractions, factor by factor."""
    positions = [Position(*row) for row in case["positions"]]
    evidence = weigh_answer(flat_null(case["bound_ppb"]), Regime.COOL, positions)
    assert evidence.log_bets == pytest.approx(case["log_bets"], abs=1e-9)
    assert evidence.log_e == pytest.approx(case["log_e"], abs=1e-9)
    assert evidence.p_value == pytest.approx(case["p_value"], rel=1e-9)
    assert (evidence.tokens, evidence.scored) == (case["tokens"], case["scored"])


def test_grid_spans_more_than_three_decades_of_effect() -> None:
    """From a quarter above the bound to thousands of times, as odds."""
    assert (1 + GAINS[-1]) / (1 + GAINS[0]) > 3000


def test_other_model_is_beyond_doubt_after_one_answer_of_64_tokens() -> None:
    """With half of the tokens wrong under a bound of 2 %, one answer is worth more than 10^6."""
    evidence = weigh_answer(flat_null(20_000_000), Regime.COOL, [BAD, GOOD] * 32)
    assert evidence.log_e > math.log(1e6)


def test_honest_answer_speaks_for_its_provider() -> None:
    """Without a wrong token every bet loses and the p-value is 1."""
    evidence = weigh_answer(flat_null(20_000_000), Regime.COOL, [GOOD] * 64)
    assert all(value < 0 for value in evidence.log_bets)
    assert evidence.p_value == 1.0


def test_token_without_a_bound_changes_nothing() -> None:
    """In a stratum that was not calibrated even the worst token leaves every bet as it was."""
    evidence = weigh_answer(flat_null(None), Regime.COOL, [BAD] * 64)
    assert evidence.log_bets == (0.0,) * BETS
    assert (evidence.tokens, evidence.scored, evidence.log_e) == (64, 0, 0.0)


def test_token_with_an_impossible_number_is_not_scored() -> None:
    """A replay's not-a-number says nothing."""
    evidence = weigh_answer(flat_null(1000), Regime.COOL, [Position(False, math.nan, 0.0, 0.0, 0.0), GOOD])
    assert (evidence.tokens, evidence.scored) == (2, 1)


def test_two_bought_replays_say_the_least_that_both_say() -> None:
    """If one seller is honest, the smaller of each bet is no larger than his."""
    honest = weigh_answer(flat_null(10_000_000), Regime.COOL, [GOOD] * 8)
    framing = weigh_answer(flat_null(10_000_000), Regime.COOL, [BAD] * 9)
    both = least_evidence(framing, honest)
    assert both.log_bets == honest.log_bets
    assert (both.tokens, both.scored) == (8, 8)


@pytest.mark.parametrize("bets", [(), (0.0,) * (BETS - 1), (math.nan,) + (0.0,) * (BETS - 1), (math.inf,) * BETS])
def test_bets_that_are_none_are_refused(bets: tuple[float, ...]) -> None:
    """Foreign evidence has the right number of finite bets."""
    with pytest.raises(BadMessage):
        checked_bets(bets)


def test_factor_at_the_bound_is_one() -> None:
    """A score that equals its bound wins and loses nothing."""
    assert log_factor(0.25, 0.25, 7) == 0.0


def test_logarithms_add_without_overflow() -> None:
    """Huge, tiny and infinite logarithms come out as they should."""
    assert log_add(1e300, 0.0) == 1e300
    assert log_add(-math.inf, -math.inf) == -math.inf
    assert log_add(-math.inf, 3.0) == 3.0
    assert log_add(0.0, 0.0) == pytest.approx(math.log(2))
    assert log_mean([1e6, -1e6]) == pytest.approx(1e6 - math.log(2))
    assert AnswerEvidence(tokens=1, scored=1, log_bets=(1e9,) * BETS).p_value == 0.0
    assert AnswerEvidence(tokens=1, scored=1, log_bets=(-1e9,) * BETS).p_value == 1.0
