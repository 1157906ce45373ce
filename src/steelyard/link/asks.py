"""Evidence that a gateway asked a provider for: chunks put together, bounded, each ask with an end.

1. At most `MAX_ASKS` are open on a link, each for one receipt; who asks for the same one waits for the same answer.
2. An answer is at most `MAX_SHOW_CHUNKS` chunks in order. A first chunk begins anew, what doesn't follow is passed
   over: it may belong to an ask that was given up.
3. Nothing is kept for a receipt that wasn't asked for.

Pure but for its futures. Law: docs/spec/link.md, section 4.
"""

from __future__ import annotations

import asyncio

from steelyard.errors import SteelyardError, Unavailable
from steelyard.link.frames import Show

MAX_ASKS = 8
ASK_S = 10.0
"""How long an ask waits for the whole answer."""


class _Ask:
    __slots__ = ("answer", "chunks", "count")

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.chunks: list[bytes] = []
        self.count = 0


class Asks:
    """The open asks of one session."""

    __slots__ = ("_asks",)

    def __init__(self) -> None:
        self._asks: dict[bytes, _Ask] = {}

    def open(self, receipt_hash: bytes) -> tuple[asyncio.Future[bytes | None], bool]:
        """Return where the answer comes, and whether the frame has still to be sent.

        Raises:
            Unavailable: too many are open.
        """
        ask = self._asks.get(receipt_hash)
        if ask is not None:
            return ask.answer, False
        if len(self._asks) >= MAX_ASKS:
            raise Unavailable(f"{MAX_ASKS} asks are open on this link", code="evidence_busy", retry_after_s=1.0)
        ask = self._asks[receipt_hash] = _Ask()
        return ask.answer, True

    def close(self, receipt_hash: bytes) -> None:
        """Give an ask up."""
        ask = self._asks.pop(receipt_hash, None)
        if ask is not None:
            ask.answer.cancel()

    def take(self, show: Show) -> None:
        """Take a chunk (untrusted)."""
        ask = self._asks.get(show.receipt_hash)
        if ask is None:
            return
        if not show.found:
            self._end(show.receipt_hash, ask, None)
            return
        if show.chunk_index == 0:
            ask.chunks, ask.count = [], show.chunk_count
        elif show.chunk_index != len(ask.chunks) or show.chunk_count != ask.count:
            return
        ask.chunks.append(show.data)
        if len(ask.chunks) >= ask.count:
            self._end(show.receipt_hash, ask, b"".join(ask.chunks))

    def fail(self, error: SteelyardError) -> None:
        """End all asks: the session is over."""
        asks, self._asks = self._asks, {}
        for ask in asks.values():
            if not ask.answer.done():
                ask.answer.set_exception(error)
                ask.answer.exception()  # nobody may wait any more, and that is no fault

    def _end(self, receipt_hash: bytes, ask: _Ask, answer: bytes | None) -> None:
        del self._asks[receipt_hash]
        if not ask.answer.done():
            ask.answer.set_result(answer)
