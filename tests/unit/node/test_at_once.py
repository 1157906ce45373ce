"""Answers that a kind knows at once: the same receipt, billing and failures as a run, without a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.link_world import build_offer, build_order

from steelyard.errors import BadRequest, TooLarge, Unavailable
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.node.orders import NodeService, Taken
from steelyard.node.runner import Run, answer_at_once
from steelyard.protocol.messages import FinishReason, Receipt
from steelyard.services.port import Chunk, Context, Quote, Request

CALL_ID, SALT = b"\x01" * 16, b"\x07" * 32


class _Quick:
    """Says a chunk, or raises; both ways alike."""

    def __init__(self, said: Chunk | Exception) -> None:
        self._said = said

    def answer_now(self, request: Request, context: Context) -> Chunk | None:
        assert context.call_id == CALL_ID
        if isinstance(self._said, Exception):
            raise self._said
        return self._said

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        chunk = self.answer_now(request, context)
        assert chunk is not None
        yield chunk


class _Slow(_Quick):
    def answer_now(self, request: Request, context: Context) -> Chunk | None:
        return None


class _Link:
    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.done: tuple[Receipt, Piece | None] | None = None
        self.failure: Failure | None = None

    def send_done(self, call_id: bytes, receipt: Receipt, piece: Piece | None) -> None:
        if piece is not None and len(piece.content) > self.limit:
            raise TooLarge("too long")
        self.done = (receipt, piece)

    def send_fail(self, call_id: bytes, failure: Failure) -> None:
        self.failure = failure


def _order(service: object) -> tuple[CallRequest, Taken]:
    order = build_order(CALL_ID, 10**15)
    offered = NodeService(service, frozenset({"echo"}), build_offer())  # type: ignore[arg-type]
    taken = Taken(offered, order.struct_hash(), Request(api="echo", model="m"), Quote(10, 10))
    return CallRequest(order, b"\x00" * 16, SALT, "echo", b""), taken


def _at_once(service: object, link: _Link) -> Receipt | Failure | None:
    call, taken = _order(service)
    return answer_at_once(link, call, taken, 1_000, lambda: 1_000)  # type: ignore[arg-type]


def _by_run(service: object, link: _Link) -> Receipt | None:
    call, taken = _order(service)
    ended: list[Receipt | None] = []

    async def story() -> None:
        await Run(
            link,  # type: ignore[arg-type]
            call,
            taken,
            is_stream=False,
            on_end=lambda run, receipt: ended.append(receipt),
            now_ms=lambda: 1_000,
        ).start()

    asyncio.run(story())
    return ended[0]


@pytest.mark.parametrize(
    "said",
    [
        Chunk(b"ab", 5, 2, b'{"logprobs":null}', FinishReason.LENGTH),
        Chunk(b"", 5, 0, b"", FinishReason.STOP),
        Chunk(b"a", 11, 1, b"", FinishReason.STOP),
        Chunk(b"a", 1, 11, b"", FinishReason.STOP),
        Chunk(b"a", 1, -1, b"", FinishReason.STOP),
        Chunk(b"a", 1, 1),
        Chunk(b"a" * 101, 1, 1, b"", FinishReason.STOP),
        BadRequest("too long", param="messages"),
        Unavailable("gone"),
        RuntimeError("a plug-in's bug"),
    ],
)
def test_answer_at_once_ends_as_its_run_would(said: Chunk | Exception) -> None:
    """Receipt, piece and failure are those of a run, whatever the kind says or breaks."""
    quick, slow = _Link(), _Link()
    ended, receipt = _at_once(_Quick(said), quick), _by_run(_Quick(said), slow)
    assert (quick.done, quick.failure) == (slow.done, slow.failure)
    assert ended == (receipt or slow.failure)


@pytest.mark.parametrize("service", [object(), _Slow(Chunk(b""))])
def test_kind_that_must_run_is_left_alone(service: object) -> None:
    """No `answer_now`, or None from it: nothing is sent."""
    link = _Link()
    assert _at_once(service, link) is None
    assert (link.done, link.failure) == (None, None)
