"""At the shipped parameters a cheat loses more than it gains, for all promised gains, dilutions and colluders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.verification.economics import (
    answers_to_convict,
    ev_of_cheating_nano,
    largest_order_nano,
    least_rate,
    needed_floor_orders,
)
from steelyard.verification.parameters import SHIPPED

_gains = st.floats(0.05, 1.0)
_fractions = st.floats(0.01, 1.0)
_colluders = st.floats(0.0, 1 / 3)
_stakes = st.integers(SHIPPED.stake_floor_orders, 10**18)


@given(_stakes, _gains, _fractions, _colluders, st.floats(1.0, SHIPPED.convict_answers))
def test_expected_value_of_cheating_is_below_honesty(
    stake: int, gain: float, fraction: float, colluders: float, answers: float
) -> None:
    """Fast or slow, whole or diluted, with a third of the judges: the stake is worth more than all it ever gains."""
    price = largest_order_nano(stake)
    assert price > 0
    for order in (price, max(1, price // 2)):
        value = ev_of_cheating_nano(order, stake, gain=gain, fraction=fraction, answers=answers, colluders=colluders)
        assert value < 0


@given(st.floats(6.0, 400.0), _fractions, st.floats(0.0, 1.0), _gains, _colluders)
def test_strong_cheats_are_within_what_the_stake_covers_however_diluted(
    log_e: float, fraction: float, honest_e: float, gain: float, colluders: float
) -> None:
    """A cheated answer worth 6 nats (a factor of 400) is convicted in time on one call of a hundred."""
    answers = answers_to_convict(log_e, fraction, honest_e=honest_e)
    assert answers <= SHIPPED.convict_answers
    stake = 100 * 10**9
    price = largest_order_nano(stake)
    assert ev_of_cheating_nano(price, stake, gain=gain, fraction=fraction, answers=answers, colluders=colluders) < 0


@given(st.floats(0.45, 400.0))
def test_weak_cheats_on_every_call_are_within_what_the_stake_covers(log_e: float) -> None:
    """Half a nat an answer (a factor of 1.6) is enough if all of them are cheated."""
    assert answers_to_convict(log_e, 1.0) <= SHIPPED.convict_answers


@given(_gains, _colluders)
def test_one_shot_lies_need_a_lower_rate_than_we_run(gain: float, colluders: float) -> None:
    """A lie that one check finds is deterred by far less than 1 % of checks, the stake being what it is."""
    rate = least_rate(gain, detection=0.9, colluders=colluders, revenue=1, stake=SHIPPED.stake_floor_orders)
    assert rate < SHIPPED.rate_ppb / 10**9


def test_floor_without_its_margin_would_not_hold() -> None:
    """The floor is not slack: at half of it the slowest cheat with a third of colluders pays."""
    stake = 10**12
    price = 2 * largest_order_nano(stake)
    assert ev_of_cheating_nano(price, stake, gain=1.0, fraction=1.0, answers=64, colluders=1 / 3) > 0
    assert needed_floor_orders() == pytest.approx(27_220, abs=1)
