"""verification/economics.py: odds and stakes, by docs/spec/checking.md, section 10."""

from __future__ import annotations

import math

import pytest

from steelyard.verification.economics import (
    answers_to_convict,
    conviction_odds,
    ev_of_cheating_nano,
    framing_odds,
    largest_order_nano,
    least_fraction,
    least_rate,
    needed_floor_orders,
    orders_to_conviction,
    seats_odds,
    stake_floor_nano,
)
from steelyard.verification.parameters import SHIPPED


@pytest.mark.parametrize(
    ("share", "first", "second", "both"),
    [(0.10, 1.8e-4, 9e-9, 1.6e-12), (0.20, 4.7e-3, 1.2e-5, 5.8e-8), (0.33, 4.3e-2, 1.6e-3, 7.1e-5)],
)
def test_framing_odds_are_the_binomial_tails(share: float, first: float, second: float, both: float) -> None:
    """5 of 7, 11 of 15, and one after the other."""
    assert seats_odds(share, 7, 5) == pytest.approx(first, rel=0.05)
    assert seats_odds(share, 15, 11) == pytest.approx(second, rel=0.06)
    assert framing_odds(share) == pytest.approx(both, rel=0.05)


def test_honest_validators_convict_and_a_third_of_colluders_shields_only_for_a_while() -> None:
    """Without colluders conviction is certain, with a third it takes four or five panels."""
    assert conviction_odds(0.0) == 1.0
    assert 4 < 1 / conviction_odds(1 / 3) < 5


def test_stake_floor_is_above_what_the_slowest_cheat_needs() -> None:
    """The shipped floor exceeds break-even by a quarter at the worst gain and a third of colluders."""
    assert SHIPPED.stake_floor_orders > 1.25 * needed_floor_orders()


def test_largest_order_fits_the_stake_and_the_next_does_not() -> None:
    """The limit is exact and never above what the stake covers."""
    stake = 100 * 10**9 + 34_999
    largest = largest_order_nano(stake)
    assert stake_floor_nano(largest) <= stake < stake_floor_nano(largest + 1)
    assert largest_order_nano(-5) == 0


def test_honest_order_price_at_the_limit_makes_cheating_lose() -> None:
    """A swap that saves all of the price loses nearly all that is slashed, a slow one with friends still loses."""
    stake = 100 * 10**9
    price = largest_order_nano(stake)
    assert ev_of_cheating_nano(price, stake, gain=1.0, fraction=1.0, answers=1) < -0.49 * stake
    worst = ev_of_cheating_nano(price, stake, gain=1.0, fraction=0.01, answers=64, colluders=1 / 3)
    assert -0.2 * stake < worst < -0.1 * stake
    assert ev_of_cheating_nano(price * 2, stake, gain=1.0, fraction=1.0, answers=64, colluders=1 / 3) > 0


def test_orders_to_conviction_are_audited_at_one_per_cent() -> None:
    """64 audited answers are 6,400 orders; cheating on a tenth makes it ten times as many."""
    assert orders_to_conviction(64, 1.0) == pytest.approx(6400)
    assert orders_to_conviction(64, 0.1) == pytest.approx(64_000)


def test_other_model_is_convicted_by_one_answer_and_weak_cheats_by_tens() -> None:
    """The stronger the evidence, the fewer answers; what is too weak or too diluted is never convicted."""
    assert answers_to_convict(200.0, 1.0) == 1.0
    assert 10 < answers_to_convict(1.5, 1.0) < SHIPPED.convict_answers
    assert answers_to_convict(1.5, 0.05) == math.inf
    assert answers_to_convict(6.0, 0.01) < SHIPPED.convict_answers
    assert answers_to_convict(0.0, 1.0) == math.inf


def test_least_fraction_is_where_the_bets_stop_growing() -> None:
    """Above it a cheat is convicted, below it never."""
    edge = least_fraction(3.0)
    assert answers_to_convict(3.0, edge * 1.02) < math.inf
    assert answers_to_convict(3.0, edge * 0.98) == math.inf


def test_least_rate_is_the_formula_of_the_design() -> None:
    """g = 0.7, R = 1, S = 1000, d = 0.95, r = 0.2, k = 1.25 give 0.115 %."""
    rate = least_rate(0.7, detection=0.95, colluders=0.2, revenue=1, stake=1000)
    assert rate == pytest.approx(0.00115, rel=0.01)
    assert rate < SHIPPED.rate_ppb / 10**9


def test_framing_odds_grow_with_the_panels_that_may_fail() -> None:
    """Where honest jurors only abstain, colluders draw again; a hundred draws make a fifth of the stake dangerous."""
    assert framing_odds(0.2, draws=1) == pytest.approx(5.8e-8, rel=0.05)
    assert framing_odds(0.2, draws=3) < 1e-6
    assert framing_odds(0.2, draws=100) > 1e-4
    assert framing_odds(0.0, draws=100) == 0.0
    assert framing_odds(1.0, draws=3) == 1.0
