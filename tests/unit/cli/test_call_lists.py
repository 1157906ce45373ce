"""`steelyard calls show`: what people read of a call."""

from __future__ import annotations

import time
from typing import Any

import pytest

from steelyard.cli.call_lists import _choices, _flatten, _text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cost_nano", 1_500_000_000, "1.5 YARD"),
        ("receipt.cost", 39_500, "0.0000395 YARD"),
        ("order.price_in", 500_000_000, "0.5 YARD per 1,000,000 units"),
        ("voucher.cumulative", 0, "0 YARD"),
        ("receipt.finish_reason", 1, "length"),
        ("order.grade", 6, "peer-checked"),
        ("grade", "exact", "exact"),
        ("salt", b"\x01\x02", "0x0102"),
        ("finished_ms", None, "-"),
        ("receipt.units_in", 7, "7"),
    ],
)
def test_field_is_shown_in_words_of_people(name: str, value: object, text: str) -> None:
    """Amounts are YARD, numbers that stand for words are the words."""
    assert _text(name, value) == text


def test_time_is_shown_as_a_clock_shows_it() -> None:
    """Unix milliseconds become a local date and time, to the millisecond."""
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_800_000_000))
    assert _text("order.deadline_ms", 1_800_000_000_042) == f"{local}.042"


def test_parts_are_named_and_a_proof_is_shown_step_by_step() -> None:
    """Plain values come first; an empty proof says why it is."""
    said = {"batch": {"seq": 1, "proof": ["0xaa", "0xbb"]}, "status": "done", "voucher": None}
    assert list(_flatten(said)) == [
        ("status", "done"),
        ("voucher", None),
        ("batch.seq", 1),
        ("batch.proof 1", "0xaa"),
        ("batch.proof 2", "0xbb"),
    ]
    assert list(_flatten({"batch": {"proof": []}})) == [("batch.proof", "empty: the receipt is the batch's only one")]


def test_choices_name_each_order_and_everybody_passed_over_once() -> None:
    """Who was asked, how it was chosen and what came of it; then who never was, with the last reason."""

    def order(provider: int, status: str, how: str | None, reason: str | None, **passed: str) -> dict[str, Any]:
        over = [{"provider": "0x" + name[2:], "reason": said} for name, said in passed.items()]
        why = {"how": how, "reason": reason, "passed_over": over, "more": 2 * len(over)}
        return {"provider": bytes([provider]), "status": status, "why": why}

    found = [
        order(0xAA, "failed", "share", "busy: full", p_bb="share 0.4 of the draw", p_cc="breaker open"),
        order(0xBB, "done", "only_one_left", None, p_cc="still open"),
    ]
    assert list(_choices(found)) == [
        ["0xaa", "share", "busy: full"],
        ["0xbb", "only_one_left", "done"],
        ["0xcc", "no", "still open"],
        ["2 more", "no", "-"],
    ]
    assert list(_choices([order(0xAA, "done", None, None)])) == [["0xaa", "not kept", "done"]]
    assert list(_flatten({"status": "done", "why": {"how": "share"}})) == [("status", "done")]
