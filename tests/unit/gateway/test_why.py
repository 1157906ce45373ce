"""Why a provider was asked: packed small, shown whole."""

from __future__ import annotations

from steelyard.gateway.why import MAX_PASSED, ONLY_SELLER, add_outcome, build_why, show_why
from steelyard.link.port import Failure

A, B, C = (bytes([number]) * 20 for number in range(1, 4))


def test_only_seller_is_told_from_nothing() -> None:
    """An empty note is a choice of one; none at all is a call from before, or one known again by its tag."""
    shown = show_why([(A, "done", ONLY_SELLER)])
    assert shown == {
        "asked": [{"provider": "0x" + A.hex(), "how": "only_seller", "status": "done", "reason": None}],
        "passed_over": [],
        "more": 0,
    }
    assert show_why([(A, "done", None)])["asked"][0]["how"] is None
    assert add_outcome(None, Failure("busy", "later")) is None


def test_several_attempts_show_who_failed_and_who_was_passed_over() -> None:
    """Who was asked is never among those passed over; of two reasons the later one counts."""
    failed = add_outcome(build_why("share", [(B, "not drawn"), (C, "link_down")]), Failure("engine_error", "it broke"))
    shown = show_why([(A, "failed", failed), (B, "done", build_why("only_one_left", [(C, "breaker_open")]))])
    assert [(one["how"], one["reason"]) for one in shown["asked"]] == [
        ("share", "engine_error: it broke"),
        ("only_one_left", None),
    ]
    assert shown["passed_over"] == [{"provider": "0x" + C.hex(), "reason": "breaker_open"}]


def test_crowd_is_counted_beyond_a_bound() -> None:
    """A thousand providers don't make a row of a hundred kilobytes."""
    why = build_why("share", [(number.to_bytes(20, "big"), "x" * 1000) for number in range(1000)])
    assert len(why) < MAX_PASSED * 200
    shown = show_why([(A, "done", why)])
    assert len(shown["passed_over"]) == MAX_PASSED
    assert shown["more"] == 1000 - MAX_PASSED
