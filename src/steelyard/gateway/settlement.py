"""What an attempt's end does to the money: budgets settled, the lane told, the call's row queued.

1. A receipt settles at its cost, on the key's budget and on the escrow's, whatever route or stream it came by.
2. An order whose link was lost stays reserved at its highest cost until its receipt comes with a batch, or its deadline
   and a grace have passed. The key is charged for it only if something of it was shown to the client, and at once with
   the leg that replaced it, if one did.
3. A call's row is queued before the answer's last byte leaves; a row that finds the writer's queue full waits here.

Law: docs/spec/money.md, sections 2 and 6.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from steelyard.errors import Unavailable
from steelyard.gateway.check_store import CheckStore
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.why import add_outcome
from steelyard.link.port import Failure
from steelyard.protocol.messages import FinishReason, Order, Receipt
from steelyard.storage.calls import CallRow, fill_call, insert_call
from steelyard.storage.operations import Operation

if TYPE_CHECKING:
    from steelyard.gateway.attempt import Attempt
    from steelyard.storage.meter import BudgetMeter
    from steelyard.storage.writer import GroupWriter

encode_row = msgspec.msgpack.Encoder().encode

DONE, CUT, FAILED, LOST, REPLACED = "done", "cut", "failed", "lost", "replaced"
PRIVATE_SUFFIX = ":private"
LANE_LOST = "lane_lost"
"""A node's word for: the history of that lane is gone here, open another."""

AWAY_S = 0.5
"""How long the connection of a stream may be away before somebody else is asked; a node dials again at once."""

_BUSY = "storage_busy"
_RETRY_S = 0.02


class Settlement:
    """The one place where reservations end.

    Args:
        writer: for rows. escrow: the budget of the gateway's deposit.
        run_id: 16 bytes, this life of the process.
        clock: monotonic seconds. clock_ms: Unix milliseconds. grace_s: how long after its deadline a lost order waits.
        store: where the texts of settled calls are kept for checks; none keeps nothing.
    """

    def __init__(
        self,
        writer: GroupWriter,
        escrow: BudgetMeter,
        metrics: Metrics,
        run_id: bytes,
        *,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
        grace_s: float,
        store: CheckStore | None = None,
    ) -> None:
        self.clock = clock
        self.clock_ms = clock_ms
        self.escrow = escrow
        self.store = CheckStore(0.0, 0) if store is None else store
        self.loop = asyncio.get_running_loop()
        self.open_orders: dict[bytes, Attempt] = {}
        self.lost: dict[bytes, Attempt] = {}
        self._writer = writer
        self._metrics = metrics
        self._run_id = run_id
        self._grace_ms = int(grace_s * 1000)
        self._overflow: deque[Operation] = deque()

    @property
    def in_flight(self) -> int:
        """How many orders left, and have neither a receipt nor a failure yet."""
        return len(self.open_orders)

    def open(self, attempt: Attempt) -> None:
        """Note an attempt whose reservations stand and whose order leaves now: only its own end may bill it."""
        self.open_orders[attempt.order_hash] = attempt

    def settle(self, attempt: Attempt, receipt: Receipt) -> None:
        """End an attempt by its receipt, already checked."""
        del self.open_orders[attempt.order_hash]
        order, seller = attempt.request.order, attempt.seller
        cost = receipt.cost
        # An engine's own failure before anything was shown is the gateway's cost: the call is tried again elsewhere.
        is_charged = (
            (receipt.finish_reason != FinishReason.ERROR or attempt.is_shown)
            and not attempt.is_unwanted
            and attempt.no_answer is None
        )
        self._end_key(attempt, receipt if is_charged else None)
        self.escrow.settle(order.max_cost, cost)
        is_cut = receipt.finish_reason >= FinishReason.CANCELLED
        seller.lane.add_receipt(order.call_id, attempt.order_hash, attempt.receipt_hash, cost)
        now_s = attempt.ended_s = self.clock()
        units = receipt.units_out or receipt.units_in
        if receipt.finish_reason == FinishReason.ERROR:
            seller.record.add_failure("engine_error", now_s)
        elif attempt.no_answer is not None:
            seller.record.add_failure(attempt.no_answer.code, now_s)
        elif attempt.is_stalled:
            pass  # its failure was noted when another one was asked for the rest
        elif not attempt.job.is_own:
            first_s = None if attempt.first_s is None else attempt.first_s - attempt.started_s
            seller.record.add_success(now_s - attempt.started_s, units, first_s)
        self._add_row(attempt, CUT if is_cut else DONE, receipt, is_charged=is_charged)
        metrics, service = self._metrics, seller.name
        metrics.calls[service, seller.provider_hex, CUT if is_cut else DONE] += 1
        metrics.units[service, "in"] += receipt.units_in
        metrics.units[service, "out"] += receipt.units_out
        metrics.cost_nano[service] += cost

    def fail(self, attempt: Attempt, failure: Failure) -> None:
        """End an attempt without a receipt, or hold its money while one may still come."""
        del self.open_orders[attempt.order_hash]
        order, seller = attempt.request.order, attempt.seller
        code = "cancelled" if attempt.is_cancelled and failure.code == "cancelled" else failure.code
        if code == LANE_LOST and not seller.lane.is_used:
            code = "lane_refused"  # there was no history to lose
        seller.record.add_failure(code, self.clock(), failure.retry_after_s)
        self._metrics.calls[seller.name, seller.provider_hex, code] += 1
        if attempt.is_lost:
            self.lost[attempt.order_hash] = attempt
            if not attempt.is_shown:
                self._end_key(attempt, None)
            return
        self._end_key(attempt, None)
        self.escrow.release(order.max_cost)
        self._add_row(attempt, FAILED, None)

    def free_key(self, attempt: Attempt) -> None:
        """Give back what a key has reserved for an order that isn't needed: its provider may be silent for long."""
        self._end_key(attempt, None)

    def note_stalled(self, attempt: Attempt) -> None:
        """Note a provider whose silence let another one answer: what it bills when it is stopped is no success."""
        attempt.is_stalled = True
        attempt.seller.record.add_failure("stalled", self.clock())

    def note_replaced(self, attempt: Attempt) -> None:
        """Write down that the key pays elsewhere for an order: its receipt may come after a crash of ours."""
        self._add_row(attempt, REPLACED, None)
        attempt.is_noted = True

    def settle_late(self, order_hash: bytes, receipt: Receipt, receipt_hash: bytes) -> bool:
        """Settle a lost order whose receipt came with a batch (checked); False if it isn't waited for."""
        attempt = self.lost.pop(order_hash, None)
        if attempt is None:
            return False
        order = attempt.request.order
        if attempt.is_shown:
            self._end_key(attempt, receipt)
        self.escrow.settle(order.max_cost, receipt.cost)
        attempt.receipt_hash = receipt_hash
        self._add_row(attempt, CUT, receipt, is_charged=attempt.is_shown)
        self._metrics.calls[attempt.seller.name, attempt.seller.provider_hex, "late_receipt"] += 1
        self._metrics.cost_nano[attempt.seller.name] += receipt.cost
        return True

    def wake_due(self) -> None:
        """Wake whoever has waited as long as it wanted to, or waits for a stream whose link is away for `AWAY_S`."""
        now_s = self.clock()
        for attempt in self.open_orders.values():
            if attempt.waiter is None:
                continue
            if attempt.is_stream and not attempt.seller.link.is_up:
                attempt.away_since_s = min(attempt.away_since_s, now_s)
                if now_s - attempt.away_since_s >= AWAY_S:
                    attempt.away_since_s = now_s
                    attempt.waiter()
            else:
                attempt.away_since_s = math.inf
                if attempt.wake_at_s <= now_s:
                    attempt.waiter()

    def expire(self) -> None:
        """Free what lost orders reserved, once they are past their deadline; write rows that had to wait."""
        limit_ms = self.clock_ms() - self._grace_ms
        for order_hash, attempt in list(self.lost.items()):
            order = attempt.request.order
            if order.deadline_ms < limit_ms:
                del self.lost[order_hash]
                self.escrow.release(order.max_cost)
                if not attempt.is_replaced:
                    self._end_key(attempt, None)
                    self._add_row(attempt, LOST, None, is_charged=attempt.is_shown)
        self._drain()

    def add_recovered(
        self,
        order: Order,
        order_hash: bytes,
        receipt: Receipt,
        receipt_hash: bytes,
        key_id: str | None,
        run: bytes | None,
        known: CallRow | None = None,
        *,
        charged_nano: int,
    ) -> None:
        """Queue the row of a call known again by its tag, or fill the `known` one that was given up as lost."""
        status = CUT if receipt.finish_reason >= FinishReason.CANCELLED else DONE
        if known is not None and known.status.endswith(PRIVATE_SUFFIX):
            status += PRIVATE_SUFFIX
        write = insert_call if known is None else fill_call
        self.submit(
            write(
                CallRow(
                    order_hash,
                    order.call_id,
                    key_id,
                    run,
                    order.provider,
                    order.service_id,
                    order.lane.key,
                    encode_row(order),
                    None,
                    status,
                    receipt_hash,
                    encode_row(receipt),
                    receipt.cost,
                    receipt.started_ms,
                    receipt.finished_ms,
                    charged_nano=charged_nano,
                )
            )
        )

    def submit(self, operation: Operation) -> None:
        """Queue a write behind all before it; what finds the queue full waits here, and no new call is taken."""
        if not self._overflow:
            try:
                self._writer.submit(operation)
                return
            except Unavailable:
                pass  # it waits, and is tried again
        self._overflow.append(operation)
        self._drain()

    def submit_if_room(self, operation: Operation) -> bool:
        """Queue a write that may be left out while the database is behind; False if it was."""
        if self.is_behind:
            return False
        self.submit(operation)
        return True

    @property
    def is_behind(self) -> bool:
        """Whether writes wait here; only calls in flight may add to them, so that they are few."""
        return bool(self._overflow)

    async def flush(self) -> None:
        """Return once everything submitted before is committed; raises Unavailable if the database failed."""
        while True:
            error = self._drain()
            if error is None:
                try:
                    await self._writer.flush()
                    return
                except Unavailable as refusal:
                    error = refusal
            if error.code != _BUSY:
                raise error
            await asyncio.sleep(_RETRY_S)

    def _drain(self) -> Unavailable | None:
        while self._overflow:
            try:
                self._writer.submit(self._overflow[0])
            except Unavailable as error:
                return error
            self._overflow.popleft()
        return None

    def _end_key(self, attempt: Attempt, receipt: Receipt | None) -> None:
        """End what is reserved on the key for an attempt: charge its receipt, and what is owed for legs before it."""
        if attempt.is_replaced or attempt.is_key_ended:
            return
        if receipt is not None:
            attempt.paid_nano = min(attempt.charge(receipt), attempt.key_nano)
        elif attempt.leg is not None:
            attempt.paid_nano = attempt.leg.owed_nano - attempt.leg.disputed_nano
            attempt.undecided_nano = attempt.leg.disputed_nano  # the next leg may show that it was right
        attempt.job.meter.settle(attempt.key_nano, attempt.paid_nano)
        attempt.key_nano = 0
        attempt.is_key_ended = True

    def _add_row(
        self,
        attempt: Attempt,
        status: str,
        receipt: Receipt | None,
        *,
        is_charged: bool = True,
    ) -> None:
        order = attempt.request.order
        failure = attempt.failure or (None if attempt.is_cancelled else attempt.shortfall)
        row = CallRow(
            attempt.order_hash,
            order.call_id,
            attempt.job.account.key_id if is_charged or attempt.paid_nano else None,
            self._run_id,
            order.provider,
            order.service_id,
            attempt.seller.lane.key,
            encode_row(order),
            attempt.request.salt,
            status + PRIVATE_SUFFIX if attempt.job.is_private else status,
            None if receipt is None else attempt.receipt_hash,
            None if receipt is None else encode_row(receipt),
            0 if receipt is None else receipt.cost,
            attempt.started_ms,
            self.clock_ms(),
            attempt.seller.lane.state.seq,
            attempt.why if failure is None else add_outcome(attempt.why, failure),
            attempt.paid_nano,
        )
        self.submit(fill_call(row) if attempt.is_noted else insert_call(row))
