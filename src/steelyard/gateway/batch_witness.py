"""What providers sign against themselves: batches that were refused, held against those that were taken.

what came                                                     what it is held against
------------------------------------------------------------  ------------------------------------------------------
a batch that broke a rule, or one under a number long past    the lane's batches of that number, beside it, the last
the receipts that came with it                                the receipts of the same orders in our batches
a batch that was taken, on a lane that had one refused        the refused ones

1. Nothing here runs for a batch that follows its lane, unless one of that lane was refused before.
2. A refused batch that its provider signed is kept, a few per lane: the one that takes its place is the other half.
3. Only what `protocol.lies` finds is a lie. Batches sent again, in whatever order and as often as wanted, hold none.

Law: docs/spec/checking.md, section 13.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from steelyard.chain.fault_desk import FaultDesk
from steelyard.link.port import LeafEntry
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.lies import (
    Lie,
    PlacedReceipt,
    find_two_batches,
    find_two_receipts,
    is_batch_signed,
)
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Lane, Receipt
from steelyard.protocol.signing import Domain
from steelyard.storage.calls import known_orders
from steelyard.storage.database import Database
from steelyard.storage.lane_rows import StoredBatch
from steelyard.storage.lanes import find_place, load_batches, load_last_batch
from steelyard.storage.lies import keep_half, load_halves

MAX_SEQ = 2**62
"""Beyond any batch that a lane comes to, and what every database holds."""

_encode = msgspec.msgpack.Encoder().encode
_decode_half = msgspec.msgpack.Decoder(SignedBatch).decode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


class BatchWitness:
    """Looks at what the payer refused; `refused` are the refused batches by lane key, mostly none.

    Args:
        desk: where lies go. flush: returns once all that was taken is on disk. now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        database: Database,
        domain: Domain,
        desk: FaultDesk,
        flush: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self.refused: dict[bytes, list[SignedBatch]] = {}
        self._database = database
        self._domain = domain
        self._desk = desk
        self._flush = flush
        self._now_ms = now_ms

    async def restore(self) -> None:
        """Read the refused batches back."""
        for lane_key, content in await load_halves(self._database):
            self.refused.setdefault(lane_key, []).append(_decode_half(content))

    async def look(self, signed: SignedBatch, entries: Sequence[LeafEntry] = (), *, is_ours: bool = True) -> None:
        """Hold a batch (untrusted) that was not taken against what its provider signed before.

        Args:
            is_ours: its lane is this process's, so that what takes its place will be seen here.
        """
        if signed.batch.seq > MAX_SEQ or not is_batch_signed(signed, self._domain):
            return
        await self._flush()
        near = await self._load_near(signed)
        if any(stored.signed.batch == signed.batch for stored in near):
            return
        lane_key = signed.batch.lane.key
        others = [stored.signed for stored in near] + self.refused.get(lane_key, [])
        lies: list[Lie | None] = [*await self._find_receipts(signed, entries)]
        lies += [find_two_batches(other, signed, self._domain) for other in others]
        found = [lie for lie in lies if lie is not None]
        for lie in found:
            await self._desk.keep(lie)
        if not found and is_ours:
            head = self._domain.digest(signed.batch.struct_hash())
            if await keep_half(self._database, head, lane_key, _encode(signed), now_ms=self._now_ms()):
                self.refused.setdefault(lane_key, []).append(signed)

    async def look_back(self, lane: Lane, history: Sequence[tuple[SignedBatch, Sequence[LeafEntry]]]) -> None:
        """Hold a part of a lane's history that came again against the one that is known."""
        mine = [
            (signed, entries)
            for signed, entries in history
            if signed.batch.lane == lane and signed.batch.seq <= MAX_SEQ
        ]
        if not mine:
            return
        await self._flush()
        seqs = [signed.batch.seq for signed, _ in mine]
        first, last = min(seqs), max(seqs)
        stored = await load_batches(self._database, lane, after_seq=first - 1, limit=last - first + 1)
        known = {batch.signed.batch.seq: batch.signed.batch for batch in stored}
        for signed, entries in mine:
            if signed.batch.seq in known and known[signed.batch.seq] != signed.batch:
                await self.look(signed, entries)

    async def compare(self, signed: SignedBatch) -> None:
        """Hold a batch that was taken against those of its lane that were refused."""
        for other in self.refused.get(signed.batch.lane.key, ()):
            lie = find_two_batches(other, signed, self._domain)
            if lie is not None:
                await self._desk.keep(lie)

    async def _load_near(self, signed: SignedBatch) -> list[StoredBatch]:
        lane, seq = signed.batch.lane, signed.batch.seq
        near = await load_batches(self._database, lane, after_seq=max(seq - 2, 0), limit=3)
        near = [stored for stored in near if stored.signed.batch.seq <= seq + 1]
        last = await load_last_batch(self._database, lane)
        return near if last is None or last in near else [*near, last]

    async def _find_receipts(self, signed: SignedBatch, entries: Sequence[LeafEntry]) -> list[Lie]:
        leaves = tuple(entry.receipt.struct_hash() for entry in entries)
        if not leaves or merkle_root(leaves) != signed.batch.receipts_root:
            return []
        placed = [PlacedReceipt(signed, leaves, entry.receipt) for entry in entries]
        first: dict[tuple[bytes, int], PlacedReceipt] = {}
        pairs = [(first.setdefault((half.receipt.order_hash, half.receipt.part), half), half) for half in placed]
        asked = [(entry.order.call_id, entry.receipt.order_hash) for entry in entries]
        rows = await known_orders(self._database, asked)
        for entry, half in zip(entries, placed, strict=True):
            row = rows.get(entry.receipt.order_hash)
            place = None if row is None else await find_place(self._database, entry.order.lane, row)
            if row is not None and row.receipt_bytes is not None and place is not None:
                other = PlacedReceipt(place[0].signed, place[0].leaves, _decode_receipt(row.receipt_bytes))
                pairs.append((other, half))
        lies = [find_two_receipts(one, other, self._domain) for one, other in pairs]
        return [lie for lie in lies if lie is not None]
