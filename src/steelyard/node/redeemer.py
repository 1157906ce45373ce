"""Redeeming: vouchers become money, and the calls behind them blobs that anyone can check.

1. What is due is redeemed at a value, after a time, at once when a gateway withdraws, and when asked.
2. A blob is stored before the transaction that names it is sent; calls beyond one blob's size go in several.
3. A redemption that was not acknowledged is simply made again: the escrow pays each total once.
4. A voucher that the escrow passed over rests, longer each time: no gas is spent on it again and again.
5. The chain's own figures say what was paid; `redemptions` in the database is the node's record of its own.

Law: docs/spec/money.md, sections 5 to 7; docs/spec/node.md, section 5.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from steelyard.chain.escrow import Redemption
from steelyard.errors import SteelyardError
from steelyard.node.chain_view import NodeChain
from steelyard.node.lane_account import LaneAccount
from steelyard.node.lane_feed import read_history
from steelyard.node.settings import NodeSettings
from steelyard.protocol.calls_blob import encode_calls
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Lane, Order, Receipt
from steelyard.protocol.signing import Domain
from steelyard.storage import node_ledger
from steelyard.storage.blobs import BlobStore
from steelyard.storage.database import Database
from steelyard.storage.writer import GroupWriter

CHECK_S = 0.5
LONGEST_PAUSE_S = 60.0
REST_MS = 30_000
LONGEST_REST_MS = 3_600_000
BLOB_CALLS = 50_000
"""Calls in one blob, some 20 MB."""

_log = structlog.get_logger("steelyard.node")

Published = tuple[SignedBatch, tuple[tuple[Order, Receipt], ...]]


@dataclass(frozen=True, slots=True)
class RedeemerTools:
    """What redeeming needs; shared with nobody else."""

    chain: NodeChain
    database: Database
    writer: GroupWriter
    blobs: BlobStore
    domain: Domain
    settings: NodeSettings
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    blob_calls: int = BLOB_CALLS


class Redeemer:
    """Redeems the lanes that `lanes` gives; one redemption at a time."""

    def __init__(self, tools: RedeemerTools, lanes: Callable[[], Iterable[LaneAccount]]) -> None:
        self._tools = tools
        self._lanes = lanes
        self._lock = asyncio.Lock()
        self._published: dict[bytes, tuple[int, int]] = {}
        self._rests: dict[bytes, tuple[int, int]] = {}

    async def run(self) -> None:
        """Redeem whenever something is due, until cancelled; what fails is logged and tried again, ever less often."""
        pause_s = CHECK_S
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._tools.chain.wait_change()
            except TimeoutError:
                pass
            try:
                due = self._pressing()
                if due:
                    await self.redeem(due)
                pause_s = CHECK_S
            except (SteelyardError, OSError) as error:
                _log.warning("redemption_failed", code=getattr(error, "code", "os_error"), reason=str(error))
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s)

    async def redeem_all(self) -> list[Redemption]:
        """Redeem everything that is due now, however little; raises ChainError."""
        await self._tools.chain.refresh()
        return await self.redeem([lane for lane in self._lanes() if self._due(lane) > 0])

    async def redeem(self, lanes: Sequence[LaneAccount]) -> list[Redemption]:
        """Publish the calls of some lanes and redeem their vouchers, in as many transactions as it takes."""
        async with self._lock:
            step = self._tools.settings.redeem_lanes
            done = [await self._redeem_group(lanes[start : start + step]) for start in range(0, len(lanes), step)]
            await self._tools.chain.refresh()
            for lane in lanes:
                lane.voucher_since_ms = self._tools.now_ms() if self._due(lane) > 0 else 0
            if any(redemption.paid_nano for redemption in done) and self._tools.settings.is_sweeping:
                await self._tools.chain.sweep()
        return done

    def _due(self, lane: LaneAccount) -> int:
        """What a lane's voucher would bring if the gateway can pay it, in nano."""
        totals = self._tools.chain.lane(lane.state.lane.key)
        return lane.promised - (totals.paid_nano if totals else 0)

    def _payable(self, lane: LaneAccount) -> int:
        """What would come of redeeming now: all that is due of a new voucher, of an old one what the pool holds."""
        totals = self._tools.chain.lane(lane.state.lane.key)
        if totals is None or lane.promised > totals.accepted_nano:
            return self._due(lane)
        account = self._tools.chain.account(lane.state.lane.gateway)
        return min(self._due(lane), account.deposit_nano if account else 0)

    def _pressing(self) -> list[LaneAccount]:
        now_ms = self._tools.now_ms()
        payable = [
            lane
            for lane in self._lanes()
            if self._payable(lane) > 0 and self._rests.get(lane.state.lane.key, (0, 0))[0] <= now_ms
        ]
        late_ms = now_ms - int(self._tools.settings.redeem_after_s * 1000)
        is_time = any(lane.voucher_since_ms and lane.voucher_since_ms <= late_ms for lane in payable)
        is_worth = sum(self._payable(lane) for lane in payable) >= max(1, self._tools.settings.redeem_value_nano)
        if is_time or is_worth:
            return payable
        return [lane for lane in payable if self._is_withdrawing(lane.state.lane.gateway)]

    def _is_withdrawing(self, gateway: bytes) -> bool:
        account = self._tools.chain.account(gateway)
        return account is not None and account.is_withdrawing

    async def _redeem_group(self, lanes: Sequence[LaneAccount]) -> Redemption:
        vouchers = [lane.voucher for lane in lanes if lane.voucher is not None]
        blob = await self._publish([(signed.voucher.lane, signed.voucher.count) for signed in vouchers])
        redemption = await self._tools.chain.redeem(vouchers, blob)
        await self._record(redemption)
        _log.info(
            "vouchers_redeemed",
            lanes=len(redemption.redeemed),
            skipped=len(redemption.skipped),
            paid_nano=redemption.paid_nano,
            blob=blob.hex(),
        )
        for skip in redemption.skipped:
            self._rest(skip.lane_key)
            _log.warning("voucher_skipped", lane=skip.lane_key.hex(), reason=skip.reason.name.lower())
        return redemption

    def _rest(self, lane_key: bytes) -> None:
        _, last_ms = self._rests.get(lane_key, (0, REST_MS // 2))
        rest_ms = min(last_ms * 2, LONGEST_REST_MS)
        self._rests[lane_key] = (self._tools.now_ms() + rest_ms, rest_ms)

    async def _publish(self, lanes: Sequence[tuple[Lane, int]]) -> bytes:
        """Store the calls of lanes up to their counts, as far as no redemption of ours did; return the last's digest.

        Blobs before the last are named on chain here; zeros stand for nothing to publish.
        """
        batches: list[Published] = []
        calls = 0
        for lane, upto_count in lanes:
            after_seq, count = await self._last_published(lane)
            async for signed, entries in read_history(self._tools.database, lane, after_seq):
                count += signed.batch.count
                if count > upto_count:
                    break
                if calls + signed.batch.count > self._tools.blob_calls and batches:
                    await self._tools.chain.redeem((), await self._store(batches))
                    batches, calls = [], 0
                batches.append((signed, tuple((entry.order, entry.receipt) for entry in entries)))
                calls += signed.batch.count
        return await self._store(batches) if batches else ZERO32

    async def _store(self, batches: Sequence[Published]) -> bytes:
        cid = await self._tools.blobs.put(encode_calls(self._tools.domain, batches))
        return cid.digest

    async def _last_published(self, lane: Lane) -> tuple[int, int]:
        """Return (seq, count) of the last batch that a redemption of ours published; zeros for none."""
        redemptions = await node_ledger.load_redemptions(self._tools.database, lane.key)
        published = max((redemption.count for redemption in redemptions), default=0)
        seq, count = self._published.get(lane.key, (0, 0))
        while count < published:
            batches = await node_ledger.load_batches(self._tools.database, lane, after_seq=seq, limit=256)
            for batch in batches:
                if batch.total_count <= published:
                    seq, count = batch.signed.batch.seq, batch.total_count
            if not batches or batches[-1].total_count >= published:
                break
        self._published[lane.key] = (seq, count)
        return seq, count

    async def _record(self, redemption: Redemption) -> None:
        receipt = redemption.receipt
        for index, lane in enumerate(redemption.redeemed):
            row = node_ledger.Redemption(
                tx_hash=receipt.tx_hash,
                log_index=index,
                block=receipt.block_number,
                lane_key=lane.lane_key,
                cumulative_nano=lane.cumulative_nano,
                paid_nano=lane.paid_nano,
                count=lane.count,
                head=lane.head,
            )
            await self._tools.writer.submit_flushed(node_ledger.record_redemption(row))
            self._rests.pop(lane.lane_key, None)
