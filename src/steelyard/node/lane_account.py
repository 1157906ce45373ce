"""One lane as its provider keeps it: receipts that wait for a batch, what was signed, promised and paid.

1. A batch and its receipts are on disk before the batch is sent; a lane has one write at a time, of batches in order,
   so there are never two with one number.
2. A voucher is on disk before it counts.

Law: docs/spec/money.md, section 3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from steelyard.errors import Unavailable
from steelyard.link.port import GatewayLink, LeafEntry
from steelyard.node.lane_feed import LaneFeed
from steelyard.node.settings import NodeSettings
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher, accept_voucher, extend_lane
from steelyard.protocol.messages import Order, Receipt
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.storage.database import Database
from steelyard.storage.node_evidence import keep_evidence
from steelyard.storage.node_ledger import ReceiptRow, open_lane, record_batch, record_voucher
from steelyard.storage.operations import Operation
from steelyard.storage.writer import GroupWriter

BUSY_PAUSE_S = 0.5
MAX_WRITE_CALLS = 1_024
"""The most receipts in one write."""

WHOLE_PAUSE_S = 0.02
"""How long a whole batch waits for others to share its write."""

_encode = msgspec.msgpack.Encoder().encode


class Leaf(msgspec.Struct, frozen=True):
    """A receipt that waits for its batch; `link` is the session that it went over."""

    order: Order
    order_hash: bytes
    tag: bytes
    receipt: Receipt
    receipt_hash: bytes
    link: GatewayLink
    evidence: bytes = b""

    @property
    def entry(self) -> LeafEntry:
        """The leaf as a gateway without memory needs it."""
        return LeafEntry(self.order, self.tag, self.receipt)

    @property
    def row(self) -> ReceiptRow:
        """The leaf as the database keeps it."""
        order, receipt = _encode(self.order), _encode(self.receipt)
        return ReceiptRow(
            self.order.call_id,
            self.order_hash,
            self.receipt.part,
            self.receipt_hash,
            order,
            self.tag,
            receipt,
            self.receipt.cost,
        )


@dataclass(frozen=True, slots=True)
class LaneTools:
    """What every lane of a node shares."""

    key: SigningKey
    domain: Domain
    database: Database
    writer: GroupWriter
    settings: NodeSettings
    on_crash: Callable[[BaseException], None]
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class LaneAccount:
    """A lane's life on the node; `feed` brings its batches to its gateway.

    Args:
        tools: shared by all lanes. state: as far as it is on disk. voucher: the best one held. heads: head →
            (cumulative, count) of the batches from that voucher on. is_new: not in the database yet.
    """

    def __init__(
        self,
        tools: LaneTools,
        state: LaneState,
        *,
        voucher: SignedVoucher | None = None,
        heads: dict[bytes, tuple[int, int]] | None = None,
        is_new: bool = False,
    ) -> None:
        self.state = state
        self.voucher = voucher
        self.voucher_since_ms = 0
        self.feed = LaneFeed(
            tools.database, state.lane, lambda: self.state.seq, lambda: self.promised < self.state.cumulative
        )
        self._tools = tools
        self._heads = dict(heads or {})
        self._is_new = is_new
        self._pending: list[Leaf] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._vouchers = asyncio.Lock()
        self._forget_heads()

    @property
    def promised(self) -> int:
        """What vouchers promise for the lane, in nano."""
        return self.voucher.voucher.cumulative if self.voucher else 0

    def add(self, leaf: Leaf) -> None:
        """Take a receipt; it is signed in a batch within the delay."""
        self._pending.append(leaf)
        if self._writing is None and len(self._pending) in (1, self._tools.settings.batch_calls):
            self._set_timer()

    async def flush(self) -> None:
        """Sign and write all that waits."""
        while self._pending or self._writing:
            self._start_writing(is_flush=True)
            if self._writing is not None:
                await asyncio.shield(self._writing)

    async def take_voucher(self, signed: SignedVoucher) -> bool:
        """Check and keep a voucher; False for one that is held already.

        Raises:
            PeerError: it breaks the lane's rules (protocol.lanes.accept_voucher).
        """
        async with self._vouchers:
            last = self.voucher.voucher if self.voucher else None
            voucher = accept_voucher(last, signed, self.state.lane, self._heads, self._tools.domain)
            if last is not None and voucher.count == last.count:
                return False
            now_ms = self._tools.now_ms()
            await self._submit(record_voucher(signed, now_ms=now_ms))
            self.voucher = signed
            self.voucher_since_ms = self.voucher_since_ms or now_ms
            self._forget_heads()
            return True

    def _forget_heads(self) -> None:
        if self.voucher is not None:
            count = self.voucher.voucher.count
            self._heads = {head: total for head, total in self._heads.items() if total[1] >= count}

    def _set_timer(self) -> None:
        """Write when the oldest receipt that waits is due; soon, if there are enough for a whole batch."""
        settings = self._tools.settings
        waited_s = (self._tools.now_ms() - self._pending[0].receipt.finished_ms) / 1000
        delay_s = min(max(0.0, settings.batch_delay_s - waited_s), settings.batch_delay_s)
        if len(self._pending) >= settings.batch_calls:
            delay_s = min(delay_s, WHOLE_PAUSE_S)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._start_writing)

    def _start_writing(self, *, is_flush: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None and self._pending:
            self._writing = asyncio.create_task(self._write(is_flush=is_flush), name="lane-batch")

    async def _write(self, *, is_flush: bool) -> None:
        try:
            for signed, leaves in await self._write_batches(self._take_leaves(is_flush=is_flush)):
                is_heard = all(leaf.link is self.feed.link for leaf in leaves)
                entries = () if is_heard else tuple(leaf.entry for leaf in leaves)
                self.feed.push(signed, [leaf.order.call_id for leaf in leaves], entries)
        except Exception as error:  # the ledger can't be written: nothing may be sent any more, so the process stops
            self._tools.on_crash(error)
            return
        finally:
            self._writing = None
        if self._pending:
            self._set_timer()

    def _take_leaves(self, *, is_flush: bool) -> list[list[Leaf]]:
        """Take what is signed now: whole batches; what is left over waits for its own, unless nothing is whole."""
        size, count = self._tools.settings.batch_calls, min(len(self._pending), MAX_WRITE_CALLS)
        if count >= size and not is_flush:
            count -= count % size
        taken, self._pending = self._pending[:count], self._pending[count:]
        return [taken[start : start + size] for start in range(0, count, size)]

    async def _write_batches(self, batches: Sequence[list[Leaf]]) -> list[tuple[SignedBatch, list[Leaf]]]:
        now_ms, state = self._tools.now_ms(), self.state
        until_ms = now_ms + int(self._tools.settings.evidence_keep_s * 1000)
        steps = list(open_lane(state.lane, now_ms=now_ms).steps) if self._is_new else []
        written, heads = [], {}
        for leaves in batches:
            ids, costs = [leaf.receipt_hash for leaf in leaves], [leaf.receipt.cost for leaf in leaves]
            state, signed = extend_lane(state, ids, costs, self._tools.key, self._tools.domain)
            steps += record_batch(state, signed, [leaf.row for leaf in leaves], now_ms=now_ms).steps
            steps += [
                keep_evidence(leaf.receipt_hash, leaf.order.gateway, leaf.evidence, until_ms=until_ms)
                for leaf in leaves
                if leaf.evidence
            ]
            heads[state.head] = (state.cumulative, state.count)
            written.append((signed, leaves))
        await self._submit(Operation(tuple(steps)))
        self._is_new = False
        self.state = state
        self._heads |= heads
        return written

    async def _submit(self, write: Operation) -> None:
        while True:
            try:
                return await self._tools.writer.submit_flushed(write)
            except Unavailable as error:
                if error.code != "storage_busy":
                    raise
                await asyncio.sleep(BUSY_PAUSE_S)
