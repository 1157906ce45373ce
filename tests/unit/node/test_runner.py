"""One run, with a scripted service and a scripted link: what is sent, and what is billed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from tests.link_world import build_offer, build_order

from steelyard.errors import BadRequest, TooLarge, Unavailable
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.node.orders import NodeService, Taken
from steelyard.node.runner import Run
from steelyard.protocol.messages import FinishReason, Receipt, content_hash
from steelyard.services.port import Chunk, Context, Quote, Request

SALT = b"\x07" * 32
Script = Callable[[], AsyncGenerator[Chunk, None]]


class _Service:
    def __init__(self, script: Script) -> None:
        self._script = script
        self.is_closed = False

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        try:
            async for chunk in self._script():
                yield chunk
        finally:
            self.is_closed = True


class _Link:
    """Takes `room` pieces, then lets the sender wait; `limit` bounds a done's piece."""

    def __init__(self, room: int = 1_000, limit: int = 1_000) -> None:
        self.room, self.limit = room, limit
        self.pieces: list[Piece] = []
        self.done: tuple[Receipt, Piece | None] | None = None
        self.failure: Failure | None = None
        self.waits = asyncio.Event()
        self.is_over = False

    async def send_piece(self, call_id: bytes, piece: Piece) -> bool:
        if len(self.pieces) >= self.room:
            self.waits.set()
            await asyncio.Event().wait()
        if self.is_over:
            return False
        self.pieces.append(piece)
        return True

    def send_done(self, call_id: bytes, receipt: Receipt, piece: Piece | None) -> None:
        if piece is not None and len(piece.content) > self.limit:
            raise TooLarge("too long")
        self.done = (receipt, piece)

    def send_fail(self, call_id: bytes, failure: Failure) -> None:
        self.failure = failure


async def _words(*words: str, error: Exception | None = None, pause_s: float = 0.0) -> AsyncGenerator[Chunk, None]:
    for index, word in enumerate(words):
        is_last = index == len(words) - 1 and error is None
        yield Chunk(word.encode(), 5 if index == 0 else 0, len(word), b"", FinishReason.STOP if is_last else None)
        await asyncio.sleep(pause_s)
    if error is not None:
        raise error


def _run(
    script: Script,
    *,
    is_stream: bool,
    link: _Link | None = None,
    during: Callable[[Run, _Link], Awaitable[None]] | None = None,
    deadline_ms: int = 10**15,
    now_ms: Callable[[], int] = lambda: 1_000,
) -> tuple[_Link, Receipt | None, _Service]:
    async def story() -> tuple[_Link, Receipt | None, _Service]:
        ended: list[Receipt | None] = []
        here, service = link or _Link(), _Service(script)
        order = build_order(b"\x01" * 16, deadline_ms)
        call = CallRequest(order, b"\x00" * 16, SALT, "echo", b"")
        offered = NodeService(service, frozenset({"echo"}), build_offer())  # type: ignore[arg-type]
        taken = Taken(offered, order.struct_hash(), Request(api="echo", model="m"), Quote(10, 10))
        run = Run(
            here,  # type: ignore[arg-type]
            call,
            taken,
            is_stream=is_stream,
            on_end=lambda run, receipt: ended.append(receipt),
            now_ms=now_ms,
        )
        task = run.start()
        if during is not None:
            await during(run, here)
        await task
        assert len(ended) == 1
        assert (here.done is None) != (here.failure is None)
        assert (here.done[0] if here.done else None) == ended[0]
        return here, ended[0], service

    return asyncio.run(story())


def test_stream_sends_each_chunk_and_bills_their_sum() -> None:
    """Pieces as they come; the receipt covers the joined content."""
    link, receipt, _ = _run(lambda: _words("ab", "cd", "e"), is_stream=True)
    assert [piece.content for piece in link.pieces] == [b"ab", b"cd", b"e"]
    assert receipt is not None
    assert (receipt.units_in, receipt.units_out, receipt.finish_reason) == (5, 5, FinishReason.STOP)
    assert receipt.response_hash == content_hash(SALT, b"abcde")
    assert link.done is not None
    assert link.done[1] is None


def test_answer_that_does_not_stream_is_one_piece() -> None:
    """All chunks joined, with the receipt."""
    link, receipt, _ = _run(lambda: _words("ab", "cd"), is_stream=False)
    assert link.pieces == []
    assert link.done == (receipt, Piece(b"abcd", 5, 4))


def test_cancel_while_a_piece_waits_bills_only_what_was_sent() -> None:
    """The piece that never left is in no hash and no cost; the engine is closed."""

    async def cancel(run: Run, link: _Link) -> None:
        await link.waits.wait()
        run.cancel()

    link, receipt, service = _run(lambda: _words("ab", "cd", "ef"), is_stream=True, link=_Link(room=2), during=cancel)
    assert receipt is not None
    assert receipt.finish_reason == FinishReason.CANCELLED
    assert receipt.response_hash == content_hash(SALT, b"abcd")
    assert (receipt.units_out, len(link.pieces)) == (4, 2)
    assert service.is_closed


def test_cancel_before_anything_was_made_bills_nothing() -> None:
    """A failure, code `cancelled`, no receipt."""

    async def cancel(run: Run, link: _Link) -> None:
        await link.waits.wait()
        run.cancel()

    link, receipt, _ = _run(lambda: _words("ab", "c"), is_stream=True, link=_Link(room=0), during=cancel)
    assert receipt is None
    assert link.failure is not None
    assert link.failure.code == "cancelled"


def test_stop_of_the_node_is_an_error_and_not_a_cancel() -> None:
    """Nobody hung up: the receipt of a cut answer must not say so."""

    async def stop(run: Run, link: _Link) -> None:
        await link.waits.wait()
        run.stop()

    _, receipt, _ = _run(lambda: _words("ab", "cd"), is_stream=True, link=_Link(room=1), during=stop)
    assert receipt is not None
    assert receipt.finish_reason == FinishReason.ERROR


def test_session_that_is_over_ends_the_run_with_what_was_sent() -> None:
    """The link takes no more: the engine stops, and the receipt covers what had left."""

    async def end(run: Run, link: _Link) -> None:
        while not link.pieces:  # noqa: ASYNC110  # a scripted link has no event for it
            await asyncio.sleep(0)
        link.is_over = True

    link, receipt, service = _run(lambda: _words("ab", "cd", "ef", pause_s=0.01), is_stream=True, during=end)
    assert receipt is not None
    assert (receipt.units_out, receipt.finish_reason) == (2, FinishReason.CANCELLED)
    assert len(link.pieces) == 1
    assert service.is_closed


@pytest.mark.parametrize("error", [Unavailable("gone"), RuntimeError("a plug-in's bug")])
def test_engine_that_fails_mid_stream_is_paid_for_what_was_sent(error: Exception) -> None:
    """An ERROR receipt over the sent part."""
    link, receipt, _ = _run(lambda: _words("ab", error=error), is_stream=True)
    assert receipt is not None
    assert (receipt.finish_reason, receipt.units_out) == (FinishReason.ERROR, 2)
    assert len(link.pieces) == 1


@pytest.mark.parametrize(
    ("error", "code", "is_retryable"),
    [
        (Unavailable("gone"), "engine_error", True),
        (RuntimeError("a plug-in's bug"), "engine_error", True),
        (BadRequest("too long", param="messages"), "invalid_request", False),
    ],
)
def test_engine_that_fails_before_anything_was_sent_bills_nothing(
    error: Exception, code: str, is_retryable: bool
) -> None:
    """A failure with its code, for streams and for whole answers."""
    for is_stream in (True, False):
        words = ("ab",) if not is_stream else ()
        link, receipt, _ = _run(lambda words=words: _words(*words, error=error), is_stream=is_stream)  # type: ignore[misc]
        assert receipt is None
        assert link.failure is not None
        assert (link.failure.code, link.failure.is_retryable) == (code, is_retryable)


def test_upstream_that_is_busy_rests_its_provider_for_as_long_as_it_says() -> None:
    """`busy` with the seconds, which a gateway waits for and counts as no failure."""
    error = Unavailable("busy, says the server", code="upstream_busy", retry_after_s=7.0)
    link, receipt, _ = _run(lambda: _words(error=error), is_stream=False)
    assert receipt is None
    assert link.failure is not None
    assert (link.failure.code, link.failure.retry_after_s) == ("busy", 7.0)


def test_deadline_cuts_a_run() -> None:
    """A stream is billed for what was sent; a whole answer is not billed at all."""

    def script() -> AsyncGenerator[Chunk, None]:
        return _words("ab", "cd", pause_s=5.0)

    _, receipt, _ = _run(script, is_stream=True, deadline_ms=1_050)
    assert receipt is not None
    assert receipt.finish_reason == FinishReason.ERROR
    link, receipt, _ = _run(script, is_stream=False, deadline_ms=1_050)
    assert receipt is None
    assert link.failure is not None
    assert link.failure.code == "deadline"


async def _chunks(*chunks: Chunk) -> AsyncGenerator[Chunk, None]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize(
    "chunks",
    [
        (Chunk(b"a", 11, 1, b"", FinishReason.STOP),),
        (Chunk(b"a", 1, 11, b"", FinishReason.STOP),),
        (Chunk(b"a", 1, -1, b"", FinishReason.STOP),),
        (Chunk(b"a", 1, 1),),
        (),
    ],
)
def test_service_that_breaks_its_port_bills_nothing_beyond_the_rules(chunks: tuple[Chunk, ...]) -> None:
    """Units beyond the quote, negative units, no finish: never a clean receipt."""
    _, receipt, _ = _run(lambda: _chunks(*chunks), is_stream=True)
    assert receipt is None or receipt.finish_reason == FinishReason.ERROR
    link, receipt, _ = _run(lambda: _chunks(*chunks), is_stream=False)
    assert receipt is None
    assert link.failure is not None
    assert link.failure.code == "engine_error"


def test_answer_beyond_the_message_limit_fails_unbilled() -> None:
    """What can't be sent isn't billed."""
    link, receipt, _ = _run(lambda: _words("abc", "def"), is_stream=False, link=_Link(limit=5))
    assert receipt is None
    assert link.failure is not None
    assert link.failure.code == "engine_error"


def test_receipt_never_ends_before_it_began() -> None:
    """A clock that is set back doesn't make a receipt that nobody takes."""
    times: list[Any] = [5_000, 5_000, 100, 100, 100]
    _, receipt, _ = _run(lambda: _words("a"), is_stream=True, now_ms=lambda: times.pop(0) if times else 100)
    assert receipt is not None
    assert receipt.finished_ms >= receipt.started_ms == 5_000
