"""The evidence that a node keeps: made at the end of a run, served to the gateway that paid, forgotten in time.

1. What a kind made goes to disk with the batch of its receipt, so that whoever holds the signed receipt can ask for it.
2. Each gateway's asks are answered one after the other, at a bounded pace; those beyond `MAX_WAITING` are left
   unanswered, so that no gateway can make a node read and send without end.
3. A receipt of another gateway, an unknown one and a forgotten one are answered alike: there is none.

Law: docs/spec/node.md, section 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from steelyard.errors import SteelyardError
from steelyard.link.port import GatewayLink, Piece
from steelyard.node.orders import Taken
from steelyard.protocol.evidence import MAX_EVIDENCE_BYTES
from steelyard.protocol.messages import FinishReason
from steelyard.services.port import Result
from steelyard.storage.database import Database
from steelyard.storage.node_evidence import forget_evidence, load_evidence

MAX_WAITING = 64
"""Asks of one gateway that wait; it has 8 open on a link, so an honest one of several processes stays below."""

ASKS_PER_S = 50
BYTES_PER_S = 8 << 20
FORGET_S = 60.0
"""How often what was kept long enough is deleted."""

_log = structlog.get_logger("steelyard.node")


def make_evidence(taken: Taken, piece: Piece, finish: FinishReason, trace: bytearray) -> bytes:
    """Return the evidence of an answer from its trace; b"" for a kind that left none.

    A kind that fails at this has worked all the same: its receipt commits to no evidence, which is a matter of its own.
    """
    if not trace:
        return b""
    result = Result(
        content=piece.content, units_in=piece.units_in, units_out=piece.units_out, finish=finish, trace=bytes(trace)
    )
    try:
        evidence = taken.offered.service.evidence(taken.request, result)
    except Exception:  # a plug-in may raise anything: it fails its own evidence, never the node
        _log.exception("evidence_not_made", order=taken.order_hash.hex())
        return b""
    if len(evidence) > MAX_EVIDENCE_BYTES:
        _log.error("evidence_too_large", order=taken.order_hash.hex(), size_bytes=len(evidence))
        return b""
    return evidence


@dataclass(slots=True)
class _Queue:
    """One gateway's asks, in order; a task works while there are any."""

    asks: dict[bytes, GatewayLink] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class EvidenceDesk:
    """Answers asks and forgets in time; `run` for as long as the node runs, `aclose` at its end."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._queues: dict[bytes, _Queue] = {}
        self._is_closed = False

    def ask(self, link: GatewayLink, receipt_hash: bytes) -> None:
        """Take an ask (untrusted); one that waits already is not taken twice."""
        queue = self._queues.setdefault(link.gateway, _Queue())
        if self._is_closed or (len(queue.asks) >= MAX_WAITING and receipt_hash not in queue.asks):
            return
        queue.asks[receipt_hash] = link
        if queue.task is None:
            queue.task = asyncio.create_task(self._work(link.gateway, queue), name="evidence-desk")

    async def run(self) -> None:
        """Forget what was kept long enough, until cancelled."""
        while True:
            try:
                await forget_evidence(self._database, now_ms=self._now_ms())
            except Exception:  # a supervisor: what can't be deleted now is deleted a minute later
                _log.exception("evidence_not_forgotten")
            await asyncio.sleep(FORGET_S)

    async def aclose(self) -> None:
        """Stop answering."""
        self._is_closed = True
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, gateway: bytes, queue: _Queue) -> None:
        try:
            while queue.asks:
                receipt_hash = next(iter(queue.asks))
                link = queue.asks.pop(receipt_hash)
                size = await self._answer(link, gateway, receipt_hash)
                await asyncio.sleep(max(1 / ASKS_PER_S, size / BYTES_PER_S))
        finally:
            queue.task = None
            if not queue.asks:
                self._queues.pop(gateway, None)

    async def _answer(self, link: GatewayLink, gateway: bytes, receipt_hash: bytes) -> int:
        if link.is_over:
            return 0
        try:
            found = await load_evidence(self._database, receipt_hash, gateway, now_ms=self._now_ms())
            await link.send_evidence(receipt_hash, found)
        except SteelyardError as error:
            _log.warning("evidence_not_sent", receipt=receipt_hash.hex(), code=error.code, reason=error.message)
            return 0
        except Exception:  # a supervisor: one ask that fails must not end the others
            _log.exception("evidence_not_sent", receipt=receipt_hash.hex())
            return 0
        return len(found or b"")
