"""One order at one provider: takes its pieces, checks its receipt, and tells whoever waits.

event                what happens to the money                                    what the waiter sees
-------------------  -----------------------------------------------------------  -------------------------------
a piece              nothing                                                       bytes for the client
a good receipt       settled at its cost, the call's row queued                    `receipt`
a bad receipt, piece nothing is paid, the peer is refused and dropped              `failure` bad_receipt, _piece
a failure            the reservation is released                                   `failure`
the link is lost     the highest cost stays reserved until receipt or deadline     `failure` link_lost

1. Everything happens in the link's callbacks, on the event loop, without waiting: settlement is queued before the
   answer's last byte can leave.
2. A waiter may leave (a client that hung up): the money is settled all the same.

Law: docs/spec/gateway.md, section 4; docs/spec/money.md, sections 2 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steelyard.errors import BadMessage, PeerError
from steelyard.gateway.receipt_check import check_receipt, check_times, is_cut, raise_if_unasked_cut
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.protocol.messages import Receipt

if TYPE_CHECKING:
    from steelyard.gateway.answers import Shape
    from steelyard.gateway.catalogue import Seller
    from steelyard.gateway.job import Job
    from steelyard.gateway.settlement import Settlement

AMBIGUOUS_CODES = frozenset({"link_lost", "deadline"})
"""Failures after which a receipt may still come: the provider may have done the work."""


class Attempt:
    """An order in flight; implements `link.port.CallSink`.

    Args:
        settlement: where the money goes. job: whose call it is; `max_cost` is reserved on its key's budget, as on the
            escrow's. seller: who is asked. request, order_hash: for what.
        shape: how the answer is written. started_s: monotonic. started_ms: Unix milliseconds.

    `waiter` is called at the next thing to do, once it is set. `first_s`: when a stream's first piece came. `ended_s`:
    when its receipt came. `why`: how this seller was chosen (why.py).
    """

    __slots__ = (
        "contents",
        "ended_s",
        "failure",
        "first_s",
        "is_cancelled",
        "is_shown",
        "is_stream",
        "job",
        "order_hash",
        "out",
        "pieces",
        "receipt",
        "receipt_hash",
        "receipt_hex",
        "request",
        "seller",
        "settlement",
        "shape",
        "stamp",
        "started_ms",
        "started_s",
        "waiter",
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
        self.contents: list[bytes] = []
        self.out: list[bytes] = []
        self.pieces = 0
        self.first_s: float | None = None
        self.ended_s = 0.0
        self.receipt: Receipt | None = None
        self.receipt_hash = b""
        self.receipt_hex = b""
        self.failure: Failure | None = None
        self.is_cancelled = False
        self.is_shown = False
        self.stamp = b""
        self.waiter: Callable[[], None] | None = None
        self.why = job.why

    def on_piece(self, piece: Piece) -> None:
        """Take the next piece; raises BadMessage for one that can't be shown, and the attempt is over."""
        self.contents.append(piece.content)
        if self.is_stream:
            if self.first_s is None:
                self.first_s = self.settlement.clock()
            self.pieces += 1
            if not self.is_cancelled:
                try:
                    self.out.append(self.shape.chunk(piece))
                except Exception as error:
                    self._end_with(_failure_of("bad_piece", error))
                    raise
        else:
            self.out.append(piece.detail)
        if self.is_stream and self.waiter is not None:
            self._wake()

    def on_done(self, receipt: Receipt) -> None:
        """Settle, if the receipt is good; raises PeerError if it isn't, and the link is dropped for it."""
        content = self.contents[0] if len(self.contents) == 1 else b"".join(self.contents)
        try:
            quote = self.job.quote
            units = (quote.max_units_in, quote.max_units_out)
            check_receipt(self.request.order, self.order_hash, units, receipt, self.request.salt, content)
            check_times(receipt, self.started_ms, self.settlement.clock_ms())
            raise_if_unasked_cut(receipt, self.is_cancelled)
            self.receipt_hash = receipt.struct_hash()
            self.receipt_hex = self.receipt_hash.hex().encode()
            self.stamp = self.seller.stamp % (self.job.call_hex, self.receipt_hex, receipt.cost)
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
            self.out = [self.shape.whole(Piece(content, 0, 0, detail), receipt, self.stamp)]

    def on_fail(self, failure: Failure) -> None:
        """Release the reservation, or keep it while a receipt may still come."""
        self._end_with(failure)

    def cancel(self) -> None:
        """Stop the provider: whoever asked for the answer has gone. What was sent is still paid."""
        if self.receipt is None and self.failure is None and not self.is_cancelled:
            self.is_cancelled = True
            self.seller.link.cancel_call(self.request.order.call_id)
        self._wake()

    @property
    def is_over(self) -> bool:
        """Whether the receipt or the failure is here."""
        return self.receipt is not None or self.failure is not None

    @property
    def shortfall(self) -> Failure | None:
        """What is wrong with an answer whose receipt says that it was cut, or None."""
        if self.receipt is None or not is_cut(self.receipt):
            return None
        return Failure("engine_error", "its engine stopped before the end of the answer")

    @property
    def is_lost(self) -> bool:
        """Whether it failed in a way that a receipt may still follow."""
        return self.failure is not None and self.failure.code in AMBIGUOUS_CODES

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


def _failure_of(code: str, error: Exception) -> Failure:
    """The peer's breach, or a fault of our own: its text is for the log, not for a client."""
    if isinstance(error, PeerError):
        return Failure(code, error.message)
    return Failure("gateway_fault", f"{type(error).__name__} while the answer was read")
