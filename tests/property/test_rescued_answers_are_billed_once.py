"""However often and however an answer changes its provider, its key pays once for what it was given, and never more
than was reserved; each provider is paid by its receipt.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.attempt import Attempt
from steelyard.gateway.legs import NOTHING, Leg
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.pay_lane import PayLane
from steelyard.gateway.routing import Record
from steelyard.gateway.settlement import Settlement
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState
from steelyard.protocol.messages import FinishReason, Lane, Order, Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.services.port import Prefix, Quote, Request
from steelyard.storage.meter import BudgetMeter

QUOTE = Quote(10, 12)
REQUEST = Request(api="x", model="m", stream=True)
ANSWER = b"abcdefghijkl"
PROMPT = 7
SALT = b"\x07" * 32
ENDS = ["error", "lost", "lost_late", "bad", "stalled", "stalled_lost", "stalled_failed", "refused"]

LEGS = st.lists(
    st.tuples(st.sampled_from(ENDS), st.integers(0, 4), st.integers(0, 3_000_000), st.integers(0, 5_000_000)),
    min_size=1,
    max_size=4,
)


class Continues:
    """A kind of one byte a unit that can go on from a prefix."""

    can_continue = True

    def quote_rest(self, request: Request, prefix: Prefix) -> Quote:
        return Quote(QUOTE.max_units_in + prefix.units_out, QUOTE.max_units_out - prefix.units_out)


class Repeats:
    """A kind that can't."""


class Books:
    """Both budgets, the settlement, and the rows."""

    def __init__(self) -> None:
        async def lease(want: int, least: int) -> int:
            return max(want, least)

        self.key = BudgetMeter(lease, clock=lambda: 0.0)
        self.escrow = BudgetMeter(lease, clock=lambda: 0.0)
        self.rows: dict[bytes, int] = {}
        writer: Any = SimpleNamespace(submit=self._write)
        clocks: Any = {"clock": lambda: 0.0, "clock_ms": lambda: 1_000, "grace_s": 0.0}
        self.settlement = Settlement(writer, self.escrow, Metrics(), b"\x00" * 16, **clocks)
        self.billed = 0
        self.job: Any = SimpleNamespace(
            meter=self.key, account=SimpleNamespace(key_id="key"), quote=QUOTE, is_private=False, call_hex=b"",
            is_own=False, why=b"", request=REQUEST, carry=NOTHING,
        )  # fmt: skip

    def _write(self, operation: Any) -> None:
        row = operation.steps[0][1]
        if len(row) == 18:
            assert row[0] not in self.rows
            self.rows[row[0]] = row[17]
        else:  # a receipt that fills a row, or how it ended
            assert row[1] in self.rows
            self.rows[row[1]] = row[6]

    def open(self, number: int, price: tuple[int, int], leg: Leg | None, key_nano: int | None) -> Attempt:
        """Send an order whose money is reserved."""
        quote = QUOTE if leg is None else leg.quote
        lane = Lane(b"\x01" * 20, number.to_bytes(20, "big"), b"\x03" * 32, 7)
        highest = call_cost(quote.max_units_in, quote.max_units_out, *price)
        order = Order(
            b"\x09" * 16, *(lane.gateway, lane.provider, lane.service_id, 7), ZERO32, ZERO32, 1, 4, *price, highest, 500
        )
        seller: Any = SimpleNamespace(
            name="m", provider_hex="0x", stamp=b"%s%s%d", record=Record(), lane=PayLane(lane.key, LaneState(lane=lane)),
            link=SimpleNamespace(cancel_call=lambda call_id: None),
        )  # fmt: skip
        shape: Any = SimpleNamespace(chunk=lambda piece: piece.content)
        request = CallRequest(order, b"", SALT, "x", b"")
        attempt = Attempt(
            self.settlement, self.job, seller, request, order.struct_hash(), shape,
            started_s=0.0, started_ms=1_000, leg=leg, key_nano=key_nano,
        )  # fmt: skip
        self.settlement.open(attempt)
        return attempt

    def bill(self, attempt: Attempt, finish: FinishReason) -> Receipt:
        """The receipt for all pieces that were sent."""
        units = attempt.units
        order = attempt.request.order
        cost = call_cost(*units, order.price_in, order.price_out)
        self.billed += cost
        content = content_hash(SALT, b"".join(attempt.contents))
        return Receipt(attempt.order_hash, 0, content, ZERO32, *units, cost, 1_000, 1_000, int(finish))


def show(attempt: Attempt, start: int, stop: int, units_in: int) -> None:
    """Give units, one byte a piece, to the client."""
    for at in range(start, stop):
        piece = Piece(ANSWER[at : at + 1], units_in if at == start else 0, 1, b"", ANSWER[at : at + 1] * 4)
        attempt.on_piece(piece)
    if attempt.out:
        attempt.is_shown = True
        attempt.out.clear()


@given(LEGS, st.booleans(), st.tuples(st.integers(0, 3_000_000), st.integers(0, 5_000_000)))
def test_key_pays_once_for_what_it_was_given(
    legs: list[tuple[str, int, int, int]], can_continue: bool, last_price: tuple[int, int]
) -> None:
    """Input once, each leg's output at its provider's price; nothing stays reserved, the rows add up."""

    async def story() -> None:
        books = Books()
        service = cast(Any, Continues() if can_continue else Repeats())
        how = "continued" if can_continue else "repeated"
        pending: list[tuple[str, Attempt]] = []
        at, given_nano, has_input = 0, 0, False
        attempt: Attempt | None = None
        leg: Leg | None = None
        for number, (end, count, *prices) in enumerate([*legs, ("done", 12, *last_price)]):
            price = (prices[0], prices[1])
            if attempt is None:
                highest = call_cost(*(QUOTE.max_units_in, QUOTE.max_units_out), *price)
                assert await books.key.reserve(highest)
                assert await books.escrow.reserve(highest)
                attempt = books.open(number, price, None, None)
            else:
                leg = attempt.carry().next_leg(cast(Any, how), service, REQUEST, QUOTE)
                assert leg is not None
                assert len(attempt.carry().content) == at
                terms: Any = SimpleNamespace(price_in=price[0], price_out=price[1])
                need = leg.charge((leg.quote.max_units_in, leg.quote.max_units_out), terms)
                more = need - attempt.key_nano
                assert await books.key.reserve(max(more, 0))
                if more < 0:
                    books.key.release(-more)
                cost = call_cost(leg.quote.max_units_in, leg.quote.max_units_out, *price)
                assert await books.escrow.reserve(cost)
                books.job.carry = attempt.carry()
                attempt.take_over()
                attempt = books.open(number, price, leg, need)
            stop = min(len(ANSWER), at + count)
            start = at if can_continue else 0
            prompt = PROMPT + (at if can_continue else 0)
            if end != "refused":
                show(attempt, start, stop, prompt)
            else:
                stop = at
            if attempt.is_shown or end == "done":
                given_nano += call_cost(0 if has_input else PROMPT, stop - at, *price)
                has_input, at = True, stop
            if end == "done":
                attempt.is_shown = True
                if not attempt.units[0]:
                    attempt.on_piece(Piece(b"", prompt, 0))  # nothing was left to say
                attempt.on_done(books.bill(attempt, FinishReason.STOP))
            elif end == "error":
                attempt.on_done(books.bill(attempt, FinishReason.ERROR))
            elif end == "refused":
                attempt.on_fail(Failure("busy", "no"))
            elif end == "bad":
                attempt.on_fail(Failure("bad_receipt", "no"))
            elif end.startswith("lost"):
                attempt.on_fail(Failure("link_lost", "gone"))
            if end in ("lost_late", "stalled", "stalled_lost", "stalled_failed"):
                pending.append((end, attempt))
        assert attempt is not None
        whole = attempt.carry()
        assert whole.content == ANSWER
        assert whole.units == (PROMPT, len(ANSWER))
        assert whole.nano == given_nano
        assert books.key.reserved_nano == 0
        assert books.key.unsaved_nano == given_nano
        for end, late in pending:
            if end == "lost_late":
                receipt = books.bill(late, FinishReason.CANCELLED)
                assert books.settlement.settle_late(late.order_hash, receipt, receipt.struct_hash())
            elif end == "stalled":
                late.on_done(books.bill(late, FinishReason.CANCELLED))
            else:
                late.on_fail(Failure("link_lost" if end == "stalled_lost" else "cancelled", "gone"))
        books.settlement.expire()
        assert (books.key.unsaved_nano, books.key.reserved_nano) == (given_nano, 0)
        assert (books.escrow.unsaved_nano, books.escrow.reserved_nano) == (books.billed, 0)
        assert sum(books.rows.values()) == given_nano
        assert not books.settlement.lost
        assert not books.settlement.in_flight

    asyncio.run(story())
