"""Whatever becomes of the orders in flight, what is reserved is what is open, and what is spent is what was billed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steelyard.gateway.attempt import Attempt
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.pay_lane import PayLane
from steelyard.gateway.routing import Record
from steelyard.gateway.settlement import Settlement
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState
from steelyard.protocol.messages import FinishReason, Lane, Order, Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.services.port import Quote, Request
from steelyard.storage.meter import BudgetMeter

LANE = Lane(b"\x01" * 20, b"\x02" * 20, b"\x03" * 32, 7)
PRICE = (1_000_000, 2_000_000)
QUOTE = Quote(10, 20)
HIGHEST = call_cost(*(QUOTE.max_units_in, QUOTE.max_units_out), *PRICE)
GRACE_S = 5.0


class _Writer:
    def __init__(self) -> None:
        self.rows: list[Any] = []

    def submit(self, operation: Any) -> None:
        self.rows.append(operation.steps[0][1])


class _Seller:
    name, provider_hex, stamp = "echo", "0x02", b'{"call_id":"%s","receipt_id":"%s","cost_nano":%d}'

    def __init__(self) -> None:
        self.record = Record()
        self.lane = PayLane(LANE.key, LaneState(lane=LANE))
        self.link = self

    def cancel_call(self, call_id: bytes) -> None:
        """Take note of nothing."""


class _Shape:
    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        return piece.content

    def chunk(self, piece: Piece) -> bytes:
        return piece.content


class Orders(RuleBasedStateMachine):
    """Opens orders, ends them in every way, lets time pass, brings receipts late."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now_s = 1_000.0
        self.number = 0
        self.open: list[Attempt] = []
        self.billed_key = self.billed_escrow = 0

        async def build() -> None:
            async def lease(want: int, least: int) -> int:
                return max(want, least)

            self.key = BudgetMeter(lease, clock=lambda: self.now_s)
            self.escrow = BudgetMeter(lease, clock=lambda: self.now_s)
            self.writer = _Writer()
            self.settlement = Settlement(
                self.writer, self.escrow, Metrics(), b"\x00" * 16,  # type: ignore[arg-type]
                clock=lambda: self.now_s, clock_ms=lambda: int(self.now_s * 1000), grace_s=GRACE_S,
            )  # fmt: skip

        self.loop.run_until_complete(build())
        self.seller = _Seller()

    def teardown(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    @rule(is_stream=st.booleans(), lasts_s=st.integers(1, 20))
    def open_order(self, is_stream: bool, lasts_s: int) -> None:
        """Reserve on both budgets and send."""

        async def reserve() -> None:
            assert await self.key.reserve(HIGHEST)
            assert await self.escrow.reserve(HIGHEST)

        self.loop.run_until_complete(reserve())
        self.number += 1
        call_id = self.number.to_bytes(16, "big")
        order = Order(
            call_id, *(LANE.gateway, LANE.provider, LANE.service_id, 7), ZERO32, ZERO32, 1, 4, *PRICE, HIGHEST,
            int((self.now_s + lasts_s) * 1000),
        )  # fmt: skip
        job: Any = SimpleNamespace(
            meter=self.key, account=SimpleNamespace(key_id="key"), quote=QUOTE, is_private=False, call_hex=b"",
            is_own=False, why=b"", request=Request(api="x", model="echo", stream=is_stream),
        )  # fmt: skip
        seller: Any = self.seller
        request, shape = CallRequest(order, b"", b"\x07" * 32, "x", b""), cast(Any, _Shape())
        attempt = Attempt(
            self.settlement, job, seller, request, order.struct_hash(), shape, started_s=self.now_s, started_ms=1
        )
        self.settlement.open(attempt)
        self.open.append(attempt)

    @precondition(lambda self: any(attempt.is_stream for attempt in self.open))
    @rule(data=st.data())
    def show_a_piece(self, data: st.DataObject) -> None:
        """Something of a stream reaches the client."""
        attempt = data.draw(st.sampled_from([attempt for attempt in self.open if attempt.is_stream]))
        attempt.on_piece(Piece(b"word", 0, 1))
        attempt.is_shown = True

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        units=st.tuples(st.integers(0, 10), st.integers(0, 20)),
        finish=st.sampled_from([FinishReason.STOP, FinishReason.ERROR, FinishReason.LENGTH]),
    )
    def end_by_receipt(self, data: st.DataObject, units: tuple[int, int], finish: FinishReason) -> None:
        """The provider sends its receipt."""
        attempt = self._take(data)
        if attempt.is_stream:  # its pieces say what its receipt may bill
            units = (min(units[0], attempt.billable[0]), min(units[1], attempt.billable[1]))
        receipt = self._receipt(attempt, units, finish)
        self.billed_escrow += receipt.cost
        if finish != FinishReason.ERROR or attempt.is_shown:
            self.billed_key += receipt.cost
        attempt.on_done(receipt)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), code=st.sampled_from(["engine_error", "busy", "credit_window", "cancelled"]))
    def end_by_failure(self, data: st.DataObject, code: str) -> None:
        """Nothing is billed."""
        self._take(data).on_fail(Failure(code, "no"))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), code=st.sampled_from(["link_lost", "deadline"]))
    def lose(self, data: st.DataObject, code: str) -> None:
        """The link is gone; the work may have been done."""
        self._take(data).on_fail(Failure(code, "gone"))

    @precondition(lambda self: self.settlement.lost)
    @rule(data=st.data(), units=st.tuples(st.integers(0, 10), st.integers(0, 20)))
    def bring_late_receipt(self, data: st.DataObject, units: tuple[int, int]) -> None:
        """A lost order's receipt comes with a batch; only the first counts."""
        order_hash = data.draw(st.sampled_from(sorted(self.settlement.lost)))
        attempt = self.settlement.lost[order_hash]
        receipt = self._receipt(attempt, units, FinishReason.STOP)
        assert self.settlement.settle_late(order_hash, receipt, receipt.struct_hash())
        assert not self.settlement.settle_late(order_hash, receipt, receipt.struct_hash())
        self.billed_escrow += receipt.cost
        self.billed_key += receipt.cost if attempt.is_shown else 0

    @rule(seconds=st.integers(1, 30))
    def let_time_pass(self, seconds: int) -> None:
        """What is past its deadline and grace is freed."""
        self.now_s += seconds
        self.settlement.expire()
        limit_ms = (self.now_s - GRACE_S) * 1000
        assert all(attempt.request.order.deadline_ms >= limit_ms for attempt in self.settlement.lost.values())

    @invariant()
    def reserved_is_what_is_open(self) -> None:
        """On the escrow every open or lost order; on the key, of the lost only those that were shown."""
        lost = self.settlement.lost.values()
        assert self.settlement.in_flight == len(self.open)
        assert self.escrow.reserved_nano == HIGHEST * (len(self.open) + len(lost))
        assert self.key.reserved_nano == HIGHEST * (len(self.open) + sum(attempt.is_shown for attempt in lost))

    @invariant()
    def spent_is_what_was_billed(self) -> None:
        """Neither more nor less, and every ended order has one row."""
        assert self.escrow.unsaved_nano == self.billed_escrow
        assert self.key.unsaved_nano == self.billed_key
        assert len(self.writer.rows) == self.number - len(self.open) - len(self.settlement.lost)
        assert len({row[0] for row in self.writer.rows}) == len(self.writer.rows)

    def _take(self, data: st.DataObject) -> Attempt:
        return self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))

    def _receipt(self, attempt: Attempt, units: tuple[int, int], finish: FinishReason) -> Receipt:
        content = content_hash(attempt.request.salt, b"".join(attempt.contents))
        cost = call_cost(*units, *PRICE)
        return Receipt(attempt.order_hash, 0, content, ZERO32, *units, cost, 1, 2, int(finish))


TestOrders = Orders.TestCase
