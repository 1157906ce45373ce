"""One order at one provider: takes its pieces, checks its receipt, and tells whoever waits.

event                what happens to the money                                    what the waiter sees
-------------------  -----------------------------------------------------------  -------------------------------
a piece              nothing                                                       bytes for the client
a good receipt       settled at its cost, the call's row queued                    `receipt`
one of no answer     settled, not charged to the key (relay_shapes.py)             `receipt` and `shortfall`
a bad receipt, piece nothing is paid, the peer is refused and dropped              `failure` bad_receipt, _piece
a failure            the reservation is released                                   `failure`
the link is lost     the highest cost stays reserved until receipt or deadline     `failure` link_lost

1. Everything happens in the link's callbacks, on the event loop, without waiting: settlement is queued before the
   answer's last byte can leave.
2. A waiter may leave (a client that hung up): the money is settled all the same.
3. An answer may take several legs (legs.py). Of a leg that was replaced, or was not needed after all, nothing more is
   shown and nothing more charged; its provider is paid as any other.

Law: docs/spec/gateway.md, section 4; docs/spec/money.md, sections 2 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from steelyard.errors import BadMessage, PeerError
from steelyard.gateway.legs import Carry, Leg, Units
from steelyard.gateway.receipt_check import NoAnswer, check_receipt, check_times, is_cut, raise_if_unasked_cut
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.protocol.messages import Receipt
from steelyard.protocol.pricing import call_cost

if TYPE_CHECKING:
    from steelyard.gateway.answers import Shape
    from steelyard.gateway.catalogue import Seller
    from steelyard.gateway.job import Job
    from steelyard.gateway.settlement import Settlement

AMBIGUOUS_CODES = frozenset({"link_lost", "deadline"})
"""Failures after which a receipt may still come: the provider may have done the work."""

BREACH_CODES = frozenset({"bad_receipt", "bad_piece"})
"""Failures of a provider that broke the rules: what it sent may be nothing of the answer."""


MAX_STREAM_BYTES = 32 << 20
"""What of one stream is kept until its receipt; one that is longer is stopped there."""


class Attempt:
    """An order in flight; implements `link.port.CallSink`.

    Args:
        settlement: where the money goes. job: whose call it is; `max_cost` is reserved on its key's budget, as on the
            escrow's. seller: who is asked. request, order_hash: for what.
        shape: how the answer is written. started_s: monotonic. started_ms: Unix milliseconds.
        leg: which part of the answer it is, None for all of it. key_nano: reserved on the key's budget, None for all
            of `max_cost`.

    `key_nano` is what is reserved on the key's budget still, `paid_nano` what the key was charged. `is_replaced`: the
    answer goes on elsewhere, and the key pays there for what this leg gave; `is_noted`: its row says so already.
    `is_unwanted`: nothing of it is needed. `is_stalled`: another one was asked for its silence. `waiter` is called at
    the next thing to do, once it is set, `wake_at_s` at the latest; `away_since_s`: since when its link was seen away;
    both monotonic. `first_s`: when a stream's first piece came. `ended_s`: when its receipt came. `why`: how this
    seller was chosen (why.py).
    """

    __slots__ = (
        "away_since_s",
        "billable",
        "contents",
        "ended_s",
        "failure",
        "first_s",
        "is_cancelled",
        "is_key_ended",
        "is_noted",
        "is_replaced",
        "is_shown",
        "is_stalled",
        "is_stream",
        "is_unwanted",
        "job",
        "key_nano",
        "leg",
        "no_answer",
        "order_hash",
        "out",
        "paid_nano",
        "pieces",
        "receipt",
        "receipt_hash",
        "receipt_hex",
        "repeating",
        "request",
        "seller",
        "settlement",
        "shape",
        "size_bytes",
        "stamp",
        "started_ms",
        "started_s",
        "trails",
        "undecided_nano",
        "units",
        "waiter",
        "wake_at_s",
        "why",
    )

    def __init__(
        self,
        settlement: Settlement,
        job: Job,
        seller: Seller,
        request: CallRequest,
        order_hash: bytes,
        shape: Shape,
        *,
        started_s: float,
        started_ms: int,
        leg: Leg | None = None,
        key_nano: int | None = None,
    ) -> None:
        self.settlement = settlement
        self.job = job
        self.seller = seller
        self.request = request
        self.order_hash = order_hash
        self.shape = shape
        self.is_stream = job.request.stream
        self.started_s = started_s
        self.started_ms = started_ms
        self.leg = leg
        self.key_nano = request.order.max_cost if key_nano is None else key_nano
        self.paid_nano = 0
        self.repeating = b"" if leg is None else leg.repeats
        self.contents: list[bytes] = []
        self.trails: list[bytes] = []
        self.units: Units = (0, 0)
        self.undecided_nano = 0
        self.billable: Units = (0, 0)
        self.size_bytes = 0
        self.out: list[bytes] = []
        self.pieces = 0
        self.first_s: float | None = None
        self.ended_s = 0.0
        self.receipt: Receipt | None = None
        self.receipt_hash = b""
        self.receipt_hex = b""
        self.failure: Failure | None = None
        self.no_answer: Failure | None = None
        self.is_cancelled = False
        self.is_shown = False
        self.is_key_ended = False
        self.is_noted = False
        self.is_replaced = False
        self.is_stalled = False
        self.is_unwanted = False
        self.wake_at_s = math.inf
        self.away_since_s = math.inf
        self.stamp = b""
        self.waiter: Callable[[], None] | None = None
        self.why = job.why

    def on_piece(self, piece: Piece) -> None:
        """Take the next piece; raises BadMessage for one that can't be shown, and the attempt is over."""
        self.contents.append(piece.content)
        if self.is_stream:
            self.billable = (self.billable[0] + piece.units_in, self.billable[1] + piece.units_out)
            self.size_bytes += len(piece.content) + len(piece.detail) + len(piece.trail)
            if self.first_s is None:
                self.first_s = self.settlement.clock()
            self.pieces += 1
            if not self.is_cancelled:
                try:
                    self._show(piece)
                except Exception as error:
                    self.contents.pop()
                    self._end_with(_failure_of("bad_piece", error))
                    raise
            if self.size_bytes > MAX_STREAM_BYTES:
                self._end_long()
        else:
            self.out.append(piece.detail)
        if self.is_stream and self.waiter is not None:
            self._wake()

    def _end_long(self) -> None:
        """Stop a stream that is too long to be kept; raises BadMessage if its provider goes on all the same."""
        if self.size_bytes > 2 * MAX_STREAM_BYTES:
            error = BadMessage(f"{self.size_bytes} bytes of a stream came, it was stopped at {MAX_STREAM_BYTES}")
            self._end_with(_failure_of("bad_piece", error))
            raise error
        self.cancel()

    def _show(self, piece: Piece) -> None:
        if self.repeating:
            shown = _without(piece, self.repeating)
            if shown is None:
                self.is_unwanted = True
                self.cancel()
                return
            self.repeating = self.repeating[len(piece.content) :]
            if self.repeating or not (shown.content or shown.detail):
                shown = None
        else:
            shown = piece
        if shown is not None:
            self.out.append(self.shape.chunk(shown))
        self.units = (self.units[0] + piece.units_in, self.units[1] + piece.units_out)
        if piece.trail:
            self.trails.append(piece.trail)

    def on_done(self, receipt: Receipt) -> None:
        """Settle, if the receipt is good; raises PeerError if it isn't, and the link is dropped for it."""
        content = self.contents[0] if len(self.contents) == 1 else b"".join(self.contents)
        try:
            quote = self.job.quote if self.leg is None else self.leg.quote
            units = (quote.max_units_in, quote.max_units_out)
            if self.is_stream:
                units = min(units[0], self.billable[0]), min(units[1], self.billable[1])
            check_receipt(self.request.order, self.order_hash, units, receipt, self.request.salt, content)
            check_times(receipt, self.started_ms, self.settlement.clock_ms())
            raise_if_unasked_cut(receipt, self.is_cancelled)
            self.receipt_hash = receipt.struct_hash()
            self.receipt_hex = self.receipt_hash.hex().encode()
            if self.leg is None:
                self.stamp = self.seller.stamp % (self.job.call_hex, self.receipt_hex, receipt.cost)
            elif self.repeating:
                self.is_unwanted = True  # it is another answer, and a shorter one
            if not self.is_stream:
                self._write_whole(content, receipt)
        except Exception as error:
            self._end_with(_failure_of("bad_receipt", error))
            raise
        self.receipt = receipt
        self.settlement.settle(self, receipt)
        if not self.job.is_private:
            self.settlement.store.keep(self.receipt_hash, self.request, content, receipt, self.started_s)
        self._wake()

    def _write_whole(self, content: bytes, receipt: Receipt) -> None:
        if len(self.out) > 1:
            raise BadMessage(f"an answer that doesn't stream came in {len(self.out)} pieces")
        detail = self.out[0] if self.out else b""
        if is_cut(receipt):
            self.out = []  # an answer that was cut is an error, it has no body
        else:
            try:
                self.out = [self.shape.whole(Piece(content, 0, 0, detail), receipt, self.stamp)]
            except NoAnswer as error:
                self.out, self.no_answer = [], Failure(error.code, error.message)

    def on_fail(self, failure: Failure) -> None:
        """Release the reservation, or keep it while a receipt may still come."""
        self._end_with(failure)

    def cancel(self) -> None:
        """Stop the provider: whoever asked for the answer has gone. What was sent is still paid."""
        if self.receipt is None and self.failure is None and not self.is_cancelled:
            self.is_cancelled = True
            self.seller.link.cancel_call(self.request.order.call_id)
        self._wake()

    def drop(self) -> None:
        """Stop the provider: the answer comes from another one, and the key pays nothing for this one."""
        self.is_unwanted = True
        self.out.clear()
        self.settlement.free_key(self)
        self.cancel()

    def take_over(self) -> None:
        """Leave what is reserved on the key for this leg, and what the key owes for it, to the leg that comes next."""
        if not self.is_key_ended:
            self.key_nano = 0
            self.is_replaced = True
            self.settlement.note_replaced(self)
        if not self.is_over:
            self.cancel()

    @property
    def given(self) -> Units:
        """The units that it gave: those of its receipt, or those of what arrived, within its quote."""
        if self.receipt is not None:
            return self.receipt.units_in, self.receipt.units_out
        return (self.leg or Leg(self.job.quote)).bound(self.units)

    def carry(self) -> Carry:
        """Return what the client has of the answer once this leg is given up, or over."""
        leg = self.leg or Leg(self.job.quote)
        owed = disputed = 0
        if self.is_shown and self.receipt is None:
            order = self.request.order
            owed = call_cost(*leg.added(self.given), order.price_in, order.price_out)
            if self.failure is not None and self.failure.code in BREACH_CODES:
                disputed = owed
        if not self.is_key_ended:
            owed += leg.owed_nano
            disputed += leg.disputed_nano
        owed += self.undecided_nano
        disputed += self.undecided_nano
        shown = (b"".join(self.contents), b"".join(self.trails)) if self.is_shown else None
        return self.job.carry.after(leg, shown, self.given, self.paid_nano, owed, disputed)

    def charge(self, receipt: Receipt) -> int:
        """Return what the key pays for a receipt of this leg, in nano."""
        if self.leg is None:
            return receipt.cost
        return self.leg.charge((receipt.units_in, receipt.units_out), self.request.order)

    @property
    def is_over(self) -> bool:
        """Whether the receipt or the failure is here."""
        return self.receipt is not None or self.failure is not None

    @property
    def shortfall(self) -> Failure | None:
        """What is wrong with an answer whose receipt says that it was cut, or that isn't what was wanted, or None."""
        if self.is_unwanted:
            return Failure("another_answer", "it does not begin with what was sent already", is_retryable=False)
        if self.no_answer is not None:
            return self.no_answer
        if self.receipt is None or not is_cut(self.receipt):
            return None
        return Failure("engine_error", "its engine stopped before the end of the answer")

    @property
    def is_lost(self) -> bool:
        """Whether it failed in a way that a receipt may still follow; a provider that gives up early bills nothing."""
        if self.failure is None or self.failure.code not in AMBIGUOUS_CODES:
            return False
        return self.failure.code != "deadline" or self.settlement.clock_ms() >= self.request.order.deadline_ms

    async def wait(self) -> None:
        """Return at the next thing to do; call it only when there is nothing now."""
        future = self.settlement.loop.create_future()
        self.waiter = lambda: None if future.done() else future.set_result(None)
        try:
            await future
        finally:
            self.waiter = None

    def _end_with(self, failure: Failure) -> None:
        if self.is_over:
            return  # its session ends because of it, and fails all its calls
        self.failure = failure
        self.settlement.fail(self, failure)
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None:
            self.waiter()


def _without(piece: Piece, repeating: bytes) -> Piece | None:
    """A piece without what it repeats; None if it doesn't, or can't be divided."""
    content = piece.content
    if len(content) <= len(repeating):
        return Piece(b"", 0, 0) if repeating.startswith(content) else None
    if piece.detail or not content.startswith(repeating):
        return None
    return Piece(content[len(repeating) :], 0, 0)


def _failure_of(code: str, error: Exception) -> Failure:
    """The peer's breach, or a fault of our own: its text is for the log, not for a client."""
    if isinstance(error, PeerError):
        return Failure(code, error.message)
    return Failure("gateway_fault", f"{type(error).__name__} while the answer was read")
