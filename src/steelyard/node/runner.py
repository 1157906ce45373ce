"""Runs one order: from chunks to pieces, and to the receipt or the failure that ends it.

1. A stream's pieces leave as they come; any other answer leaves as one piece with its receipt.
2. A kind that knows a whole answer at once gives it within the turn of the loop that brought the order.
3. An answer that was cut (the caller hung up, the deadline passed, the engine failed) is billed for exactly what left.
4. No more units than the quote are ever billed: a kind that yields more is stopped.

Law: docs/spec/node.md, section 3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
import structlog

from steelyard.engines.http_session import BUSY
from steelyard.errors import BadMessage, BadRequest, Fault, SteelyardError, TooLarge, Unavailable
from steelyard.link.port import CallRequest, Failure, GatewayLink, Piece
from steelyard.node.evidence_desk import make_evidence
from steelyard.node.orders import Taken
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import FinishReason, Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.services.details import join_details
from steelyard.services.port import Chunk, Context, Quote

_log = structlog.get_logger("steelyard.node")


def answer_at_once(
    link: GatewayLink, call: CallRequest, taken: Taken, started_ms: int, now_ms: Callable[[], int]
) -> Receipt | Failure | None:
    """End a call that doesn't stream, if its kind knows the answer without waiting; None: it has to be run.

    Returns what was sent: the receipt, or the failure for which nothing is billed.
    """
    answer_now = getattr(taken.offered.service, "answer_now", None)
    if answer_now is None or call.prefix:
        return None
    order = call.order
    try:
        chunk: Chunk | None = answer_now(taken.request, Context(order.call_id, order.sampler_seed))
        if chunk is None:
            return None
        _check_units(chunk.units_in, chunk.units_out, taken.quote)
        if chunk.finish is None:
            raise Fault("the service ended without a finish reason")
    except Exception as error:  # a plug-in may raise anything: it fails its own call, never the node
        failure = _as_failure(error, order.call_id)
        link.send_fail(order.call_id, failure)
        return failure
    piece = Piece(chunk.content, chunk.units_in, chunk.units_out, chunk.detail)
    receipt = _build_receipt(call, taken, piece, chunk.finish, started_ms, now_ms())
    try:
        link.send_done(order.call_id, receipt, piece)
    except (TooLarge, BadMessage) as error:
        failure = _unsendable(error, order.call_id)
        link.send_fail(order.call_id, failure)
        return failure
    return receipt


@dataclass(slots=True)
class _Answer:
    """What the gateway has been sent, or will be sent with the receipt."""

    contents: list[bytes] = field(default_factory=list)
    details: list[bytes] = field(default_factory=list)
    units_in: int = 0
    units_out: int = 0
    finish: FinishReason | None = None

    @property
    def is_empty(self) -> bool:
        return not self.contents and self.units_out == 0

    def add(self, chunk: Chunk) -> None:
        if chunk.content:
            self.contents.append(chunk.content)
        if chunk.detail:
            self.details.append(chunk.detail)
        self.units_in += chunk.units_in
        self.units_out += chunk.units_out
        if chunk.finish is not None:
            self.finish = chunk.finish


class Run:
    """One order at work; `start` makes its task, `cancel` ends it early. `evidence` is what its receipt commits to.

    Args:
        link, call: where it came from. taken: what `check_order` found. is_stream: pieces as they come.
        on_end: called once with the receipt, or None if nothing is billed. now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        link: GatewayLink,
        call: CallRequest,
        taken: Taken,
        *,
        is_stream: bool,
        on_end: Callable[[Run, Receipt | None], None],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.link = link
        self.call = call
        self.taken = taken
        self.evidence = b""
        self._is_stream = is_stream
        self._on_end = on_end
        self._now_ms = now_ms
        self._started_ms = now_ms()
        self._answer = _Answer()
        self._context = Context(call.order.call_id, call.order.sampler_seed, call.prefix)
        self._stopped: Failure | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False

    def start(self) -> asyncio.Task[None]:
        """Begin; the task never raises."""
        self._task = asyncio.create_task(self._run(), name="run")
        return self._task

    def cancel(self) -> None:
        """Stop the engine, the gateway wants no more; what was sent is billed, with finish reason CANCELLED."""
        self._stop(Failure("cancelled", "the gateway asked to stop", is_retryable=False))

    def stop(self) -> None:
        """Stop the engine, this node wants no more; what was sent is billed, with finish reason ERROR."""
        self._stop(Failure("engine_error", "the provider is stopping"))

    def _stop(self, why: Failure) -> None:
        if self._stopped is None:
            self._stopped = why
        if self._task is not None and self._has_begun:  # a task cancelled before its first step would end unheard
            self._task.cancel()

    async def _run(self) -> None:
        self._has_begun = True
        failure = self._stopped
        if failure is None:
            failure = await self._work()
        self._end(failure)

    async def _work(self) -> Failure | None:
        """Do the work; return why it ended early, or None."""
        try:
            seconds = (self.call.order.deadline_ms - self._now_ms()) / 1000
            async with asyncio.timeout(max(0.0, seconds)):
                await self._produce()
        except TimeoutError:
            return Failure("deadline", "the order's deadline passed before the answer was whole")
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            return self._stopped
        except Exception as error:  # a plug-in may raise anything: it fails its own call, never the node
            return _as_failure(error, self.call.order.call_id)
        return None

    async def _produce(self) -> None:
        order, quote, answer = self.call.order, self.taken.quote, self._answer
        context = self._context
        async with aclosing(self.taken.offered.service.run(self.taken.request, context)) as chunks:
            async for chunk in chunks:
                _check_units(answer.units_in + chunk.units_in, answer.units_out + chunk.units_out, quote)
                if self._is_stream:
                    piece = Piece(chunk.content, chunk.units_in, chunk.units_out, chunk.detail, chunk.trail)
                    # counted once it is sent: the gateway bills exactly what it got, and so do we
                    if not await self.link.send_piece(order.call_id, piece):
                        self._stopped = Failure("cancelled", "the link's session is over")
                        raise asyncio.CancelledError
                answer.add(chunk)
        if answer.finish is None:
            raise Fault("the service ended without a finish reason")

    def _end(self, failure: Failure | None) -> None:
        is_billable = failure is None or failure.code == "cancelled" or self._is_stream
        if failure is not None and (self._answer.is_empty or not is_billable):
            self._fail(failure)
            return
        finish = self._answer.finish if failure is None else None
        if finish is None:
            is_hung_up = failure is not None and failure.code == "cancelled"
            finish = FinishReason.CANCELLED if is_hung_up else FinishReason.ERROR
        answer, call_id = self._answer, self.call.order.call_id
        piece = Piece(b"".join(answer.contents), answer.units_in, answer.units_out)
        evidence = make_evidence(self.taken, piece, finish, self._context.trace)
        root = evidence_root(evidence)
        receipt = _build_receipt(self.call, self.taken, piece, finish, self._started_ms, self._now_ms(), root)
        try:
            if answer.details and not self._is_stream:
                piece = msgspec.structs.replace(piece, detail=join_details(answer.details))
            self.link.send_done(call_id, receipt, None if self._is_stream else piece)
        except (TooLarge, BadMessage) as error:
            self._fail(_unsendable(error, call_id))
            return
        self.evidence = evidence
        self._on_end(self, receipt)

    def _fail(self, failure: Failure) -> None:
        self.link.send_fail(self.call.order.call_id, failure)
        self._on_end(self, None)


def _build_receipt(
    call: CallRequest,
    taken: Taken,
    piece: Piece,
    finish: FinishReason,
    started_ms: int,
    now_ms: int,
    evidence_hash: bytes = ZERO32,
) -> Receipt:
    order, units_in, units_out = call.order, piece.units_in, piece.units_out
    return Receipt(
        order_hash=taken.order_hash,
        part=0,
        response_hash=content_hash(call.salt, piece.content),
        evidence_hash=evidence_hash,
        units_in=units_in,
        units_out=units_out,
        cost=call_cost(units_in, units_out, order.price_in, order.price_out),
        started_ms=started_ms,
        finished_ms=max(now_ms, started_ms),
        finish_reason=int(finish),
    )


def _check_units(units_in: int, units_out: int, quote: Quote) -> None:
    if not (0 <= units_in <= quote.max_units_in and 0 <= units_out <= quote.max_units_out):
        raise Fault(f"the service used {units_in}/{units_out} units, its quote was {quote}")


def _as_failure(error: Exception, call_id: bytes) -> Failure:
    if isinstance(error, BadRequest):
        return Failure("invalid_request", error.message[:1024], is_retryable=False)
    if isinstance(error, Unavailable) and error.code == BUSY:
        return Failure("busy", error.message[:1024], retry_after_s=error.retry_after_s or 0.0)
    if isinstance(error, SteelyardError):
        _log.warning("call_failed", call_id=call_id.hex(), code=error.code)  # its words may hold what was asked
        return Failure("engine_error", error.message[:1024])
    _log.error("service_failed", call_id=call_id.hex(), exc_info=error)
    return Failure("engine_error", f"the service failed: {type(error).__name__}")


def _unsendable(error: SteelyardError, call_id: bytes) -> Failure:
    _log.error("answer_unsendable", call_id=call_id.hex(), reason=error.message)
    return Failure("engine_error", error.message[:1024])
