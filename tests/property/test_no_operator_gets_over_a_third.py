"""While at least three others are well, nobody gets over a third of a service's calls, whatever is drawn."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.operator_cap import MOST_SHARE, WINDOW, Turns, cap_shares
from steelyard.gateway.routing import pick_two

some_shares = st.lists(st.floats(1e-9, 1e9), min_size=4, max_size=12)


@given(some_shares)
def test_capped_shares_are_all_of_the_calls_and_nobodys_is_over_a_third(shares: list[float]) -> None:
    """They sum to one, nobody has more than a third or nothing, and the order stays."""
    capped = cap_shares(shares)
    assert abs(sum(capped) - 1) < 1e-9
    assert max(capped) <= MOST_SHARE + 1e-9
    by_share = sorted(range(len(shares)), key=lambda index: shares[index])
    for lower, higher in pairwise(by_share):
        assert capped[lower] <= capped[higher] + 1e-9


@given(some_shares)
def test_shares_within_the_cap_stay_as_they_are(shares: list[float]) -> None:
    """Who is below a third keeps its proportion to the others who are."""
    capped, total = cap_shares(shares), sum(shares)
    if max(shares) / total <= MOST_SHARE:
        assert all(abs(new - old / total) < 1e-9 for new, old in zip(capped, shares, strict=True))


@given(some_shares, st.lists(st.tuples(st.floats(0, 0.999999), st.booleans()), min_size=1, max_size=3 * WINDOW))
def test_turns_given_out_are_nobodys_by_more_than_a_third(shares: list[float], draws: list[tuple[float, bool]]) -> None:
    """Whatever luck and load say: of any number of turns nobody has more than a third and one."""
    cumulative = []
    for share in cap_shares(shares):
        cumulative.append(share + (cumulative[-1] if cumulative else 0.0))
    providers = [bytes([index]) * 20 for index in range(len(shares))]
    turns, had = Turns(), Counter[int]()
    for count, (luck, is_first_busy) in enumerate(draws, 1):
        first, second = pick_two(cumulative, luck)
        wanted = (second, first) if is_first_busy else (first, second)
        had[turns.take(wanted, providers)] += 1
        assert max(had.values()) <= count * MOST_SHARE + 2
