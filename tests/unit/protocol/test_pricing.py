"""protocol/pricing.py: exact integers and their stated rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.protocol.pricing import call_cost, format_yard, parse_yard, split_payment

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "pricing.json").read_text())


@pytest.mark.parametrize("case", VECTORS["costs"], ids=str)
def test_call_cost_rounds_up_once(case: dict[str, int]) -> None:
    """A call's cost is the exact sum, rounded up once."""
    assert call_cost(case["units_in"], case["units_out"], case["price_in"], case["price_out"]) == case["cost"]


@pytest.mark.parametrize("case", VECTORS["splits"], ids=str)
def test_split_payment_gives_the_remainder_to_the_provider(case: dict[str, Any]) -> None:
    """Shares add up to the amount and equal the vectors."""
    shares = split_payment(case["amount"], case["basis_points"])
    assert list(shares) == case["shares"]
    assert sum(shares) == case["amount"]


@pytest.mark.parametrize("split", [(10_000,), (5_000, 5_000, 1, 0), (10_001, -1, 0, 0), ()], ids=str)
def test_split_payment_of_a_wrong_split_is_refused(split: tuple[int, ...]) -> None:
    """Four shares, none negative, 10,000 in all; anything else is an error."""
    with pytest.raises(ValueError, match="four shares"):
        split_payment(100, split)


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0"), (1, "0.000000001"), (1_250_000_000, "1.25"), (-5 * 10**9, "-5"), (10**15, "1,000,000")]
)
def test_yard_amounts_are_shown_exactly(nano: int, text: str) -> None:
    """No digit is lost or invented between nano and what is shown."""
    assert format_yard(nano) == text
    if nano >= 0:
        assert parse_yard(text) == nano


@pytest.mark.parametrize("text", ["", ".", "-1", "1e9", "1.0000000001", "1.2.3", "abc", "١"])
def test_yard_amount_that_is_no_number_is_refused(text: str) -> None:
    """What isn't a plain decimal of at most nine places is an error, never a guess."""
    with pytest.raises(ValueError, match=r"YARD|decimals"):
        parse_yard(text)
