"""Calls that were taken are remembered until their deadline, and no longer."""

from __future__ import annotations

from steelyard.node.seen import SeenCalls

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))


def test_call_is_refused_until_its_deadline_and_slack_are_past() -> None:
    """Nobody can replay an order while it would still be taken; afterwards its id is forgotten."""
    seen = SeenCalls(slack_ms=2_000)
    assert seen.take(A, 10_000, 0) is None
    for now_ms in (0, 9_999, 11_999):
        refusal = seen.take(A, 10_000, now_ms)
        assert refusal is not None
        assert (refusal.code, refusal.is_retryable) == ("bad_order", False)
    assert seen.take(B, 40_000, 14_000) is None
    assert len(seen) == 1


def test_call_that_ended_without_receipt_may_come_again() -> None:
    """A failure bills nothing, so the same order may be tried again; it is then remembered anew."""
    seen = SeenCalls(slack_ms=0)
    seen.take(A, 10_000, 0)
    seen.forget(A)
    assert seen.take(A, 20_000, 1_000) is None
    assert seen.take(A, 20_000, 12_000) is not None


def test_memory_is_bounded() -> None:
    """With too many unexpired calls new ones are told to go elsewhere, until deadlines pass."""
    seen = SeenCalls(slack_ms=0, capacity=2)
    seen.take(A, 5_000, 0)
    seen.take(B, 9_000, 0)
    refusal = seen.take(C, 9_000, 0)
    assert refusal is not None
    assert (refusal.code, refusal.is_retryable) == ("busy", True)
    assert seen.take(C, 9_000, 7_000) is None
