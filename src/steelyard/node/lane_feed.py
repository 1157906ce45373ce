"""A lane's batches on their way to its gateway: in order, each once for a session, whatever restarts in between.

the gateway knows the lane   batch written            what is sent
---------------------------  -----------------------  -------------------------------------------------------------
up to the one before         live                     the batch; with leaf entries if receipts went over another one
up to an earlier one         read back from disk      every batch since, with leaf entries
not at all                   read back from disk      the whole history as a claim, once something isn't promised yet

A batch is on disk before it comes here, so nothing is lost by forgetting what could not be sent.

Law: docs/spec/money.md, section 6; docs/spec/link.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import structlog

from steelyard.errors import NotProvable
from steelyard.link.port import MAX_CLAIM_BATCHES, GatewayLink, LaneClaim, LeafEntry
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Lane, Order, Receipt
from steelyard.storage.database import Database
from steelyard.storage.node_ledger import ReceiptRow, last_voucher, load_batches, load_receipts

MAX_CLAIMS = 3
"""A lane is claimed so often without its gateway knowing it afterwards; then not again until this node restarts."""

_decode_order = msgspec.msgpack.Decoder(Order).decode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode
_log = structlog.get_logger("steelyard.node")

History = tuple[SignedBatch, tuple[LeafEntry, ...]]


class LaneFeed:
    """Feeds one lane's batches to the gateway process that owns the lane.

    Args:
        written: how many batches of the lane are on disk. is_unpromised: whether vouchers lack some of them.
    """

    def __init__(
        self, database: Database, lane: Lane, written: Callable[[], int], is_unpromised: Callable[[], bool]
    ) -> None:
        self.link: GatewayLink | None = None
        self._database = database
        self._lane = lane
        self._written = written
        self._is_unpromised = is_unpromised
        self._sent_seq = 0
        self._is_known = False
        self._turn = 0
        self._claims = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether its gateway's session goes on."""
        return self.link is not None and not self.link.is_over

    def attach(self, link: GatewayLink, known_seq: int | None) -> None:
        """Send what a gateway lacks, from now on: it knows the lane up to a batch, or (None) not at all."""
        self.link = link
        self._is_known = known_seq is not None
        if self._is_known:
            self._claims = 0
        self._sent_seq = known_seq or 0
        self._turn += 1
        self._catch_up()

    def push(self, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]) -> None:
        """Send a batch that was just written; `entries` is empty if its receipts all went over the present session."""
        link = self.link
        if link is None or link.is_over:
            return
        if self._task is None and self._is_known and signed.batch.seq == self._sent_seq + 1:
            self._sent_seq += 1
            link.send_batch(signed, call_ids, entries)
        else:
            self._catch_up()

    async def close(self, timeout_s: float = 0.0) -> None:
        """Let it catch up for so long, then stop reading; nothing more is sent."""
        if self._task is not None and timeout_s:
            await asyncio.wait([self._task], timeout=timeout_s)
        self.link = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _catch_up(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="lane-feed")

    async def _run(self) -> None:
        try:
            while self._is_behind():
                await (self._resend() if self._is_known else self._claim())
        except Exception:  # a supervisor: what can't be read back now is asked for again with the next session
            _log.exception("lane_not_resent", lane=self._lane.key.hex())
        finally:
            self._task = None

    def _is_behind(self) -> bool:
        if not self.is_connected:
            return False
        if self._is_known:
            return self._sent_seq < self._written()
        return self._claims < MAX_CLAIMS and self._is_unpromised()

    async def _resend(self) -> None:
        turn, link, start = self._turn, self.link, self._sent_seq
        async for signed, entries in read_history(self._database, self._lane, start):
            if turn != self._turn or link is None or link.is_over:
                return
            self._sent_seq = signed.batch.seq
            link.send_batch(signed, [entry.order.call_id for entry in entries], entries)
            await link.drain()
        if turn == self._turn and self._sent_seq == start:
            raise NotProvable(f"batch {start + 1} of lane 0x{self._lane.key.hex()} is not in this node's database")

    async def _claim(self) -> None:
        turn, link = self._turn, self.link
        self._claims += 1
        voucher = await last_voucher(self._database, self._lane)
        parts: list[History] = []
        async for part in read_history(self._database, self._lane, 0):
            parts.append(part)
            if turn != self._turn or link is None or link.is_over:
                return
            is_last = part[0].batch.seq >= self._written()
            if is_last or len(parts) == MAX_CLAIM_BATCHES:
                batches, entries = tuple(item[0] for item in parts), tuple(item[1] for item in parts)
                link.send_claim(LaneClaim(self._lane, batches, entries, voucher if is_last else None, is_last))
                parts = []
            if is_last:
                self._is_known, self._sent_seq = True, part[0].batch.seq
                return
            await link.drain()


async def read_history(database: Database, lane: Lane, after_seq: int) -> AsyncIterator[History]:
    """Give a lane's batches after one, in order, each with its leaves."""
    while batches := await load_batches(database, lane, after_seq=after_seq, limit=MAX_CLAIM_BATCHES):
        last = batches[-1].signed.batch.seq
        rows = await load_receipts(database, lane.key, after_seq=after_seq, to_seq=last)
        start = 0
        for stored in batches:
            count = stored.signed.batch.count
            yield stored.signed, tuple(read_entry(row) for row in rows[start : start + count])
            start += count
        after_seq = last


def read_entry(row: ReceiptRow) -> LeafEntry:
    """Return a stored receipt as a leaf entry."""
    return LeafEntry(_decode_order(row.order_bytes), row.tag, _decode_receipt(row.receipt_bytes))
