"""gateway/relay_heights.py: one provider alone moves nothing, and nobody is doubted by a coin's toss."""

from __future__ import annotations

from steelyard.gateway.relay_heights import KEEP_S, NONE, Heights

A, B, C, D = (bytes([number]) * 20 for number in range(4))
ALL = (A, B, C, D)
HUGE = 2**59


def claims(*said: tuple[bytes, int], at_s: float = 0.0) -> Heights:
    """Return heights with a claim each."""
    heights = Heights()
    for provider, height in said:
        heights.note("eth", provider, height, at_s)
    return heights


def test_huge_height_of_one_moves_nothing_and_makes_nobody_stale() -> None:
    """The liar alone is doubted, and the believed height is the others'."""
    heights = claims((A, 100), (B, 101), (C, HUGE))
    assert heights.find("eth", 1.0) == 101
    assert heights.judge("eth", ALL, 12.0, 1.0) == {C: f"height_outlier: {HUGE - 101} blocks above the others"}


def test_stale_provider_is_told_by_how_many_blocks() -> None:
    """Behind by more than the chain's blocks of a while; within them nobody is."""
    assert claims((A, 100), (B, 100), (C, 88)).judge("eth", ALL, 12.0, 1.0) == {C: "stale: 12 blocks behind"}
    assert claims((A, 100), (B, 100), (C, 97)).judge("eth", ALL, 12.0, 1.0) == {}
    assert claims((A, 100), (B, 100), (C, 80)).judge("eth", ALL, 1.0, 1.0) == {}


def test_liar_and_stale_one_are_both_found_by_the_one_between() -> None:
    """One honest provider in the middle is enough."""
    assert set(claims((A, 100), (B, 20), (C, HUGE)).judge("eth", ALL, 12.0, 1.0)) == {B, C}


def test_two_who_differ_leave_it_open() -> None:
    """Nothing says who of two is right, nor where two stand against two."""
    assert claims((A, 100), (B, HUGE)).judge("eth", ALL, 12.0, 1.0) == {}
    assert claims((A, 100), (B, 100), (C, 900), (D, 900)).judge("eth", ALL, 12.0, 1.0) == {}
    assert Heights().judge("eth", ALL, 12.0, 1.0) == {}


def test_older_claim_is_taken_as_if_its_provider_had_kept_up() -> None:
    """Who was asked a minute ago isn't stale for that, nor are those who were asked since ahead."""
    heights = claims((A, 100))
    heights.note("eth", B, 130, 60.0)
    heights.note("eth", C, 130, 60.0)
    assert heights.judge("eth", ALL, 2.0, 60.0) == {}
    assert heights.judge("eth", ALL, 12.0, 60.0) == {A: "stale: 25 blocks behind"}


def test_claim_is_forgotten_after_a_while() -> None:
    """An old claim says nothing, and a provider has one."""
    heights = claims((A, 100), (A, 101))
    assert heights.find("eth", 1.0) == 101
    assert heights.find("eth", KEEP_S) is None
    assert heights.since_s("eth", A) == 0.0
    assert heights.since_s("eth", B) < 0


def test_answer_that_is_no_height_is_doubted_and_moves_nothing() -> None:
    """A number too large to be read, an error, or words."""
    heights = claims((A, 100), (B, 100), (C, NONE))
    assert (heights.find("eth", 1.0), set(heights.judge("eth", ALL, 12.0, 1.0))) == (100, {C})
    heights.note("eth", D, 20, 0.0)
    assert set(heights.judge("eth", ALL, 12.0, 1.0)) == {C, D}


def test_provider_who_has_gone_is_heard_only_where_too_few_are_left() -> None:
    """Its last claim settles who of two is right for a while, and is no vote against three."""
    heights = claims((A, 100), (B, 20), (C, 60), (D, HUGE))
    assert set(heights.judge("eth", (A, B, D), 12.0, 1.0)) == {B, D}
    heights = claims((A, 100), (B, 20), (C, HUGE))
    assert set(heights.judge("eth", (B, C), 12.0, 1.0)) == {B, C}
