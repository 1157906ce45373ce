"""Is this receipt for this order, this content and this price? Pure, and on the hot path.

1. A receipt names the order's hash and part 0; its response hash is the salted hash of what arrived.
2. Its units stay within the quote, its cost is what its units cost at the order's price, and at most `max_cost`.
3. A receipt for a cut answer (CANCELLED, ERROR) is billable for what arrived; an uncut answer ends otherwise.
4. Whoever sends another receipt broke the rules: the link is dropped, the event recorded, nothing is paid.

Law: docs/spec/money.md, section 2.
"""

from __future__ import annotations

from steelyard.errors import BadMessage, BadTotal, PeerError
from steelyard.link.port import LeafEntry
from steelyard.protocol.messages import FinishReason, Order, Receipt, content_hash, is_own_tag
from steelyard.protocol.pricing import call_cost

CLOCK_SLACK_MS = 5_000
"""How far a provider's clock may be from ours where a receipt's times are looked at."""

_CUT = (FinishReason.CANCELLED, FinishReason.ERROR)


class NoAnswer(PeerError):
    """What is signed, sent and paid as an answer and is the provider's own failure; raised by a shape that can tell.

    The order is settled, the key is not charged, and another provider is asked. The link stays: an honest one's own
    node may have failed.
    """

    code = "no_answer"


def check_receipt(
    order: Order, order_hash: bytes, quote: tuple[int, int], receipt: Receipt, salt: bytes, content: bytes
) -> None:
    """Refuse a receipt that does not fit its order and what arrived.

    Args:
        order, order_hash, salt: our own. quote: the most units in and out. receipt: untrusted.
        content: what arrived, joined.

    Raises:
        BadMessage, BadTotal: says what does not fit, with both values.
    """
    check_terms(order, order_hash, receipt)
    if receipt.units_in > quote[0] or receipt.units_out > quote[1]:
        raise BadTotal(
            f"the receipt bills {receipt.units_in} + {receipt.units_out} units, the quote was {quote[0]} + {quote[1]}"
        )
    if receipt.response_hash != content_hash(salt, content):
        raise BadMessage(f"the receipt's response hash is not that of the {len(content)} bytes that arrived")


def check_times(receipt: Receipt, sent_ms: int, now_ms: int) -> None:
    """Refuse a receipt whose times lie outside the call: its end says by which secret it may be selected for a check.

    Args:
        sent_ms, now_ms: Unix milliseconds here, when the order left and when its receipt came.
    """
    if not sent_ms - CLOCK_SLACK_MS <= receipt.started_ms <= receipt.finished_ms <= now_ms + CLOCK_SLACK_MS:
        raise BadMessage(
            f"the receipt says {receipt.started_ms} to {receipt.finished_ms} ms, the call ran from {sent_ms} to "
            f"{now_ms}: the provider's clock is off by more than {CLOCK_SLACK_MS} ms",
            code="clock_off",
        )


def check_terms(order: Order, order_hash: bytes, receipt: Receipt) -> None:
    """Refuse a receipt that does not fit its order's terms; all that can be checked without the content."""
    if receipt.order_hash != order_hash:
        raise BadMessage(f"the receipt is for order 0x{receipt.order_hash.hex()}, not 0x{order_hash.hex()}")
    if receipt.part != 0:
        raise BadMessage(f"the receipt is for part {receipt.part}, this kind of work has one part, 0")
    cost = call_cost(receipt.units_in, receipt.units_out, order.price_in, order.price_out)
    if receipt.cost != cost:
        raise BadTotal(f"the receipt costs {receipt.cost} nano, its units cost {cost}")
    if cost > order.max_cost:
        raise BadTotal(f"the receipt costs {cost} nano, the order allows {order.max_cost}")
    if not FinishReason.STOP <= receipt.finish_reason <= FinishReason.ERROR:
        raise BadMessage(f"finish_reason is {receipt.finish_reason}, it is 0 to {int(FinishReason.ERROR)}")


def check_entry(secret: bytes, gateway: bytes, provider: bytes, entry: LeafEntry) -> tuple[bytes, bytes]:
    """Return (order hash, receipt hash) of a receipt for a call that we no longer know, or refuse it.

    Args:
        secret: what our order tags are made with. gateway: us. provider: whose link it came on. entry: untrusted.

    Raises:
        BadMessage: not our order (its tag, or another payer or provider), or a field out of its range.
        BadTotal: it bills more than the order allows.
    """
    order = entry.order
    order.check_fields()
    entry.receipt.check_fields()
    order_hash = order.struct_hash()
    if order.gateway != gateway or order.provider != provider or not is_own_tag(secret, order_hash, entry.tag):
        raise BadMessage(f"order 0x{order_hash.hex()} is not one of ours: its tag says so")
    check_terms(order, order_hash, entry.receipt)
    return order_hash, entry.receipt.struct_hash()


def is_cut(receipt: Receipt) -> bool:
    """Say whether the receipt is for an answer that was cut."""
    return receipt.finish_reason in _CUT


def raise_if_unasked_cut(receipt: Receipt, is_cancelled: bool) -> None:
    """Refuse a provider that calls an answer cancelled which nobody cancelled."""
    if receipt.finish_reason == FinishReason.CANCELLED and not is_cancelled:
        raise PeerError("the provider calls the answer cancelled, and nobody cancelled it", code="unasked_cancel")
