"""What providers sign against themselves, as feeds show it: every batch held against all that was seen before.

1. One witness reads all gateways' feeds. A batch counts if its provider signed it, whoever shows it and whatever else
   is wrong with it; a gateway's word counts for nothing.
2. The first batch of a lane and number, and the first receipt of an order and part, are kept for a while. So a history
   that a provider rewrites for a gateway that lost its memory is seen here, and nowhere else.
3. Reading a feed again, from the beginning too, shows the same batches: no lie.

Law: docs/spec/validator.md, section 2; docs/spec/checking.md, section 13.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from steelyard.chain.fault_desk import FaultDesk
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.lies import (
    Lie,
    PlacedReceipt,
    find_two_batches,
    find_two_receipts,
    is_batch_signed,
)
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Receipt
from steelyard.protocol.signing import Domain
from steelyard.storage.database import Database
from steelyard.storage.seen_batches import (
    SeenBatch,
    SeenReceipt,
    add_seen,
    forget_seen,
    load_seen_near,
    load_seen_receipts,
)
from steelyard.validator.gateway_client import ShownBatch

MAX_NUMBER = 2**63 - 1
"""What every database and every message on a link holds; what lies beyond was never anybody's."""

DAY_MS = 86_400_000
FORGET_MS = 3_600_000

_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(SignedBatch).decode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


class FeedWitness:
    """Sees what feeds show; lies go to the desk.

    Args:
        keep_days: how long what was seen is kept. now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        database: Database,
        domain: Domain,
        desk: FaultDesk,
        *,
        keep_days: int = 7,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._database = database
        self._domain = domain
        self._desk = desk
        self._keep_ms = keep_days * DAY_MS
        self._now_ms = now_ms
        self._forgot_ms = 0
        self._turn = asyncio.Lock()  # two feeds may show one batch at a moment

    async def see(self, batches: Sequence[ShownBatch]) -> None:
        """Hold batches (untrusted, their fields in range) against what was seen, and keep what is new."""
        for shown in batches:
            async with self._turn:
                await self._see(shown)
        if self._now_ms() - self._forgot_ms > FORGET_MS:
            self._forgot_ms = self._now_ms()
            await forget_seen(self._database, self._forgot_ms - self._keep_ms)

    async def _see(self, shown: ShownBatch) -> None:
        signed, batch = shown.signed, shown.signed.batch
        lane_key = batch.lane.key
        if not _fits(batch.seq, batch.cumulative):
            return
        near = await load_seen_near(self._database, lane_key, batch.seq)
        known = {row.seq: _decode_batch(row.content) for row in near}
        same = known.get(batch.seq)
        if (same is not None and same.batch == batch) or not is_batch_signed(signed, self._domain):
            return
        receipts = [receipt for _, receipt in shown.calls]
        leaves = tuple(receipt.struct_hash() for receipt in receipts)
        if merkle_root(leaves) != batch.receipts_root or not all(_is_kept(receipt) for receipt in receipts):
            receipts, leaves = [], ()
        placed: dict[tuple[bytes, int], PlacedReceipt] = {}
        lies: list[Lie | None] = []
        for receipt in receipts:
            half = PlacedReceipt(signed, leaves, receipt)
            lies.append(
                find_two_receipts(placed.setdefault((receipt.order_hash, receipt.part), half), half, self._domain)
            )
        before = await load_seen_receipts(self._database, list(placed))
        for row, stored in before:
            other = PlacedReceipt(_decode_batch(stored.content), _split(stored.leaves), _decode_receipt(row.receipt))
            lies.append(find_two_receipts(other, placed[row.order_hash, row.part], self._domain))
        lies += [find_two_batches(other, signed, self._domain) for other in known.values()]
        for lie in lies:
            if lie is not None:
                await self._desk.keep(lie)
        if same is None:
            now_ms = self._now_ms()
            fresh = placed.keys() - {(row.order_hash, row.part) for row, _ in before}
            await add_seen(
                self._database,
                SeenBatch(lane_key, batch.seq, _encode(signed), b"".join(leaves), now_ms),
                [SeenReceipt(*key, lane_key, batch.seq, _encode(placed[key].receipt), now_ms) for key in sorted(fresh)],
            )


def _is_kept(receipt: Receipt) -> bool:
    return _fits(receipt.units_in, receipt.units_out, receipt.cost, receipt.started_ms, receipt.finished_ms)


def _fits(*numbers: int) -> bool:
    return max(numbers) <= MAX_NUMBER


def _split(leaves: bytes) -> tuple[bytes, ...]:
    return tuple(leaves[at : at + 32] for at in range(0, len(leaves), 32))
