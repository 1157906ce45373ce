"""Gas offers: enough to be mined, a bump that nodes accept, never above the cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chain.fees import FeePolicy, Fees, bump_fees, suggest_fees
from steelyard.errors import ChainError

GWEI = 10**9


def history(bases: list[int], rewards: list[int]) -> dict[str, object]:
    return {"baseFeePerGas": [hex(b) for b in bases], "reward": [[hex(r)] for r in rewards]}


def test_suggest_fees_takes_next_base_fee_twice_and_the_median_tip() -> None:
    """The cap is twice the next block's base fee plus the median tip."""
    fees = suggest_fees(history([1 * GWEI, 2 * GWEI, 3 * GWEI], [5 * GWEI, 7 * GWEI, 90 * GWEI]), FeePolicy())
    assert fees == Fees(13 * GWEI, 7 * GWEI)


def test_suggest_fees_idle_chain_offers_the_least_tip() -> None:
    """Empty blocks pay no tip; the least is offered all the same. A history without rewards works too."""
    assert suggest_fees(history([7], [0, 0]), FeePolicy(min_tip_wei=3)) == Fees(17, 3)
    assert suggest_fees({"baseFeePerGas": ["0x7"]}, FeePolicy(min_tip_wei=3)) == Fees(17, 3)


def test_suggest_fees_above_the_cap_is_refused() -> None:
    """A chain dearer than the policy allows is refused with both figures, never overpaid."""
    with pytest.raises(ChainError, match="at most 50 are allowed") as caught:
        suggest_fees(history([60], []), FeePolicy(min_tip_wei=1, max_fee_wei=50))
    assert caught.value.code == "fee_too_low"
    assert suggest_fees(history([40], []), FeePolicy(min_tip_wei=1, max_fee_wei=50)).max_fee_wei == 50


@pytest.mark.parametrize("reply", [None, [], {}, {"baseFeePerGas": "0x1"}, {"baseFeePerGas": [7]}])
def test_suggest_fees_malformed_history_is_a_chain_error(reply: object) -> None:
    """Nonsense from a node is a ChainError."""
    with pytest.raises(ChainError):
        suggest_fees(reply, FeePolicy())


@given(fee=st.integers(0, 10**14), tip=st.integers(0, 10**12), now=st.integers(0, 10**14))
def test_bump_fees_any_offer_rises_enough_to_replace(fee: int, tip: int, now: int) -> None:
    """A bump raises both numbers by the 12.5 % of the strictest node, follows the market, and stops at the cap."""
    policy = FeePolicy(max_fee_wei=10**14)
    bumped = bump_fees(Fees(fee, tip), Fees(now, 0), policy)
    if bumped is None:
        assert max(fee * 115 // 100, now) >= 10**14 - 1
    else:
        assert bumped.max_fee_wei > fee * 1125 // 1000
        assert bumped.max_priority_fee_wei > tip * 1125 // 1000
        assert now <= bumped.max_fee_wei <= 10**14
