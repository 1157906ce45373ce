"""Receipts against their orders: each field that lies is refused."""

from __future__ import annotations

import msgspec
import pytest

from steelyard.errors import BadMessage, BadTotal, PeerError
from steelyard.gateway.receipt_check import (
    CLOCK_SLACK_MS,
    check_entry,
    check_receipt,
    check_times,
    is_cut,
    raise_if_unasked_cut,
)
from steelyard.link.port import LeafEntry
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import FinishReason, Order, Receipt, content_hash, order_tag

SALT = b"\x07" * 32
SECRET = b"\x09" * 32
CONTENT = b"hello"
ORDER = Order(
    b"\x01" * 16,
    b"\x02" * 20,
    b"\x03" * 20,
    b"\x04" * 32,
    5,
    b"\x06" * 32,
    ZERO32,
    1,
    4,
    1_000_000,
    2_000_000,
    50,
    10**13,
)
RECEIPT = Receipt(ORDER.struct_hash(), 0, content_hash(SALT, CONTENT), ZERO32, 10, 20, 50, 1, 2, int(FinishReason.STOP))


def _check(receipt: Receipt, content: bytes = CONTENT, quote: tuple[int, int] = (10, 20)) -> None:
    check_receipt(ORDER, ORDER.struct_hash(), quote, receipt, SALT, content)


def test_honest_receipt_passes() -> None:
    """A receipt that fits in every field is taken."""
    _check(RECEIPT)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"order_hash": ZERO32}, BadMessage),
        ({"part": 1}, BadMessage),
        ({"response_hash": ZERO32}, BadMessage),
        ({"cost": 49}, BadTotal),
        ({"cost": 51}, BadTotal),
        ({"units_out": 21, "cost": 52}, BadTotal),
        ({"units_in": 11, "cost": 51}, BadTotal),
        ({"finish_reason": 6}, BadMessage),
    ],
)
def test_receipt_with_one_wrong_field_is_refused(change: dict[str, object], error: type[PeerError]) -> None:
    """Whatever field lies, the peer is at fault."""
    with pytest.raises(error):
        _check(msgspec.structs.replace(RECEIPT, **change))


def test_receipt_for_other_content_is_refused() -> None:
    """The hash is recomputed from what arrived."""
    with pytest.raises(BadMessage):
        _check(RECEIPT, content=b"hello!")


def test_receipt_above_the_quote_is_refused_even_if_the_order_allows_its_cost() -> None:
    """Units are bounded by the quote, not by the cost alone."""
    with pytest.raises(BadTotal, match="quote"):
        _check(RECEIPT, quote=(10, 19))


def test_cut_receipt_is_recognised_and_unasked_cancellation_refused() -> None:
    """CANCELLED belongs to a call that we cancelled."""
    cut = msgspec.structs.replace(RECEIPT, finish_reason=int(FinishReason.CANCELLED))
    assert is_cut(cut)
    assert not is_cut(RECEIPT)
    raise_if_unasked_cut(cut, is_cancelled=True)
    with pytest.raises(PeerError):
        raise_if_unasked_cut(cut, is_cancelled=False)


def test_entry_with_our_tag_is_honoured_and_others_are_not() -> None:
    """A gateway that lost its memory knows its own orders by their tag alone."""
    tag = order_tag(SECRET, ORDER.struct_hash())
    order_hash, receipt_hash = check_entry(SECRET, ORDER.gateway, ORDER.provider, LeafEntry(ORDER, tag, RECEIPT))
    assert (order_hash, receipt_hash) == (ORDER.struct_hash(), RECEIPT.struct_hash())
    for gateway, provider, mark in (
        (ORDER.gateway, ORDER.provider, b"\x00" * 16),
        (b"\x55" * 20, ORDER.provider, tag),
        (ORDER.gateway, b"\x55" * 20, tag),
    ):
        with pytest.raises(BadMessage):
            check_entry(SECRET, gateway, provider, LeafEntry(ORDER, mark, RECEIPT))


def test_entry_above_its_order_is_refused() -> None:
    """The tag proves the order, and the order's highest cost binds."""
    tag = order_tag(SECRET, ORDER.struct_hash())
    dear = msgspec.structs.replace(RECEIPT, units_out=21, cost=52)
    with pytest.raises(BadTotal):
        check_entry(SECRET, ORDER.gateway, ORDER.provider, LeafEntry(ORDER, tag, dear))


@pytest.mark.parametrize(("started_ms", "finished_ms"), [(0, 20_000), (10_000, 30_001), (20_000, 19_999), (0, 1)])
def test_receipt_with_times_outside_its_call_is_refused(started_ms: int, finished_ms: int) -> None:
    """A provider can't move a call into an epoch whose secrets are known."""
    receipt = msgspec.structs.replace(RECEIPT, started_ms=started_ms, finished_ms=finished_ms)
    with pytest.raises(BadMessage, match="clock"):
        check_times(receipt, 5_001 + CLOCK_SLACK_MS, 25_000)
    check_times(msgspec.structs.replace(RECEIPT, started_ms=10_001, finished_ms=25_000), 10_001, 25_000)
