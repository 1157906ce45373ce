"""Routing: shares, breaker, rests and warm prefixes, all pure."""

from __future__ import annotations

import random
from collections import Counter

from steelyard.gateway.routing import (
    EWMA_WEIGHT,
    EXPLORE_SHARE,
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    QUALITY_FLOOR,
    WARM_SLACK_CALLS,
    Record,
    ShareTable,
    Standing,
    choose_warm,
    pick_two,
    shares,
)


def _record(unit_s: float = 0.0) -> Record:
    record = Record()
    if unit_s:
        record.add_success(unit_s, 1)
    return record


def test_shares_of_equal_providers_are_equal() -> None:
    """Nobody is preferred who is neither cheaper, faster nor more reliable."""
    assert len(set(shares([Standing(10, _record()) for _ in range(3)]))) == 1


def test_shares_of_a_dearer_provider_fall_with_the_square_of_its_price() -> None:
    """At twice the price a provider gets a quarter of the calls."""
    cheap, dear = shares([Standing(10, _record()), Standing(20, _record())])
    assert dear == cheap / 4


def test_shares_of_a_slow_provider_fall_but_never_below_exploration() -> None:
    """A provider a thousand times slower is still measured now and then."""
    fast, slow = shares([Standing(10, _record(0.001)), Standing(10, _record(1.0))])
    assert slow == fast * EXPLORE_SHARE


def test_shares_follow_the_network_s_quality_within_bounds() -> None:
    """Full quality against none is four to one, and nobody is starved by quality alone."""
    good, new, bad = shares([Standing(10, _record(), 1.0), Standing(10, _record(), 0.05), Standing(10, _record(), 0.0)])
    assert (good / bad, new > bad) == (1 / QUALITY_FLOOR, True)


def test_shares_of_a_free_provider_are_finite() -> None:
    """A price of zero does not divide by zero."""
    assert all(share > 0 for share in shares([Standing(0, _record()), Standing(1, _record())]))


def test_pick_two_draws_by_share() -> None:
    """Over many draws, a share of three quarters gets three quarters of the first places."""
    luck = random.Random(1)
    first = Counter(pick_two([3.0, 4.0], luck.random())[0] for _ in range(4000))
    assert 0.70 < first[0] / 4000 < 0.80


def test_pick_two_at_the_edge_stays_inside() -> None:
    """The largest luck below one still names a candidate."""
    assert max(pick_two([0.1, 0.30000000000000004], 1.0 - 2**-53)) <= 1


def test_breaker_opens_after_failures_in_a_row_and_lets_one_call_try() -> None:
    """Open, half-open with a single trial, closed again by its success."""
    record = Record()
    for _ in range(FAILURES_TO_OPEN):
        assert record.why_not(0.0) == ""
        record.add_failure("engine_error", 0.0)
    assert "breaker_open" in record.why_not(0.1)
    assert record.why_not(FIRST_PAUSE_S + 0.1) == ""
    record.is_trying = True
    assert "half_open" in record.why_not(FIRST_PAUSE_S + 0.1)
    record.add_success(0.1, 1)
    assert record.why_not(FIRST_PAUSE_S + 0.1) == ""
    assert record.pause_s == 0


def test_breaker_whose_trial_fails_pauses_twice_as_long() -> None:
    """Each failed trial doubles the pause, up to a limit."""
    record = Record()
    for _ in range(FAILURES_TO_OPEN):
        record.add_failure("engine_error", 0.0)
    record.add_failure("link_lost", 3.0)
    assert record.open_until_s == 3.0 + 2 * FIRST_PAUSE_S
    for turn in range(20):
        record.add_failure("link_lost", float(turn))
    assert record.pause_s <= 60.0


def test_busy_provider_rests_without_a_mark() -> None:
    """`busy` and `credit_window` are no failures; the provider is asked again after its pause."""
    record = Record()
    for _ in range(10):
        record.add_failure("credit_window", 1.0, retry_after_s=0.5)
    assert record.why_not(1.2) == "credit_window"
    assert record.why_not(1.6) == ""
    assert record.failures == 0


def test_bad_request_is_not_held_against_the_provider() -> None:
    """A request that the engine refuses says nothing about the engine."""
    record = Record()
    for _ in range(10):
        record.add_failure("invalid_request", 0.0)
    assert record.why_not(0.0) == ""


def test_warm_prefix_stays_until_its_provider_is_much_busier() -> None:
    """The same prefix goes to the same provider, unless load says otherwise."""
    ids = [bytes([i]) * 20 for i in range(4)]
    even = [1.0] * 4
    home = choose_warm(b"conversation", ids, even, [0] * 4)
    assert choose_warm(b"conversation", ids, even, [0] * 4) == home
    loads = [0] * 4
    loads[home] = WARM_SLACK_CALLS + 1
    assert choose_warm(b"conversation", ids, even, loads) != home


def test_warm_weights_move_only_for_a_twofold_change() -> None:
    """What is a little faster today doesn't take a conversation from its cache; what is much worse does."""
    table, providers = ShareTable(), [b"a", b"b"]
    for turn, (share, kept) in enumerate([(1.0, 1.0), (0.6, 1.0), (0.4, 0.4), (0.7, 0.4), (0.9, 0.9)]):
        table.refresh((turn,), [Standing(1, _record())], float(turn))
        assert table.warm_weights(providers, [1.0, share], is_learning=True) == [1.0, kept]
    assert table.warm_weights(providers, [0.1, 0.9], is_learning=False) == [1.0, 0.9]
    table.refresh((9,), [Standing(1, _record())], 9.0)
    assert table.warm_weights(providers, [1.0, 0.9], is_learning=True) == [1.0, 0.9]


def test_first_piece_is_measured_beside_the_whole() -> None:
    """Latency is to the first piece where one came, to the end where the answer came whole."""
    record = Record()
    record.add_success(2.0, 10, 0.5)
    assert (record.unit_s, record.first_s) == (0.2, 0.5)
    record.add_success(1.5, 1)
    assert record.first_s == 0.5 + EWMA_WEIGHT * 1.0


def test_share_table_is_kept_for_a_tenth_of_a_second() -> None:
    """The shares are not computed for each call, but soon enough."""
    table = ShareTable()
    table.refresh((1, 2), [Standing(1, _record()), Standing(1, _record())], 1.0)
    table.refresh((1, 2), [Standing(1, _record()), Standing(2, _record())], 1.05)
    assert table.weights[0] == table.weights[1]
    table.refresh((1, 2), [Standing(1, _record()), Standing(2, _record())], 1.2)
    assert table.weights[0] > table.weights[1]
