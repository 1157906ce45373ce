"""The credit window: what stands open, and when an order fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steelyard.node.credit import Credit
from steelyard.node.settings import NodeSettings

SETTINGS = NodeSettings(credit_base_nano=100, credit_max_nano=1_000, credit_growth_bps=1_000)


def test_stranger_has_the_base_window() -> None:
    """Orders fit up to the base, at their highest cost, and not a nano beyond."""
    credit = Credit(SETTINGS)
    assert credit.reserve(60) is None
    assert credit.reserve(40) is None
    refusal = credit.reserve(1)
    assert refusal is not None
    assert refusal.code == "credit_window"
    assert refusal.is_retryable


def test_settling_frees_what_was_not_used() -> None:
    """A call that cost less than its highest cost leaves room; one that failed leaves all of it."""
    credit = Credit(SETTINGS)
    credit.reserve(60)
    credit.reserve(40)
    credit.settle(60, 10)
    credit.settle(40, 0)
    assert (credit.served, credit.reserved, credit.exposure) == (10, 0, 10)
    assert credit.reserve(90) is None


def test_window_grows_with_what_was_paid_up_to_its_ceiling() -> None:
    """A tenth of all that the gateway ever paid is added."""
    credit = Credit(SETTINGS, served=500, paid=500)
    assert (credit.window, credit.exposure) == (150, 0)
    credit.paid = credit.served = 10**9
    assert credit.window == 1_000


def test_distrusted_gateway_has_no_window_at_all() -> None:
    """While there is a reason for distrust nothing fits, not even a free order, and the reason is told."""
    credit = Credit(SETTINGS, distrust="the gateway announced a withdrawal")
    for cost in (0, 1):
        refusal = credit.reserve(cost)
        assert refusal is not None
        assert "withdrawal" in refusal.message
    credit.distrust = ""
    assert credit.reserve(1) is None


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1), st.booleans()), max_size=40))
def test_exposure_never_outgrows_the_window(steps: list[tuple[int, float, bool]]) -> None:
    """Whatever is reserved, settled and paid, and in whatever order: exposure stays within the window."""
    credit = Credit(SETTINGS)
    open_costs: list[int] = []
    for max_cost, share, is_paying in steps:
        if credit.reserve(max_cost) is None:
            open_costs.append(max_cost)
        assert credit.exposure <= credit.window
        if share > 0.5 and open_costs:
            cost = open_costs.pop()
            credit.settle(cost, int(cost * share))
        if is_paying:
            credit.paid = credit.served
        assert 0 <= credit.exposure <= credit.window
