"""What a gateway is sent again: batches after the state that it knows, or a lane's whole history.

Law: docs/spec/money.md, section 6; docs/spec/link.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from steelyard.link.port import MAX_CLAIM_BATCHES, GatewayLink, LaneClaim, LeafEntry
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Lane, Order, Receipt
from steelyard.storage.database import Database
from steelyard.storage.node_ledger import ReceiptRow, last_voucher, load_batches, load_receipts

_decode_order = msgspec.msgpack.Decoder(Order).decode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode


async def resend_batches(database: Database, link: GatewayLink, lane: Lane, after_seq: int) -> None:
    """Send every batch after one again, each with its leaf entries."""
    async for signed, entries in read_history(database, lane, after_seq):
        link.send_batch(signed, [entry.order.call_id for entry in entries], entries)


async def claim_lane(database: Database, link: GatewayLink, lane: Lane) -> None:
    """Send a lane's whole history, in parts, with the best voucher in the last."""
    parts: list[tuple[SignedBatch, tuple[LeafEntry, ...]]] = []
    async for part in read_history(database, lane, 0):
        if len(parts) == MAX_CLAIM_BATCHES:
            link.send_claim(_claim(lane, parts, is_last=False))
            parts = []
        parts.append(part)
    voucher = await last_voucher(database, lane)
    link.send_claim(msgspec.structs.replace(_claim(lane, parts, is_last=True), voucher=voucher))


async def read_history(
    database: Database, lane: Lane, after_seq: int
) -> AsyncIterator[tuple[SignedBatch, tuple[LeafEntry, ...]]]:
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


def _claim(lane: Lane, parts: list[tuple[SignedBatch, tuple[LeafEntry, ...]]], *, is_last: bool) -> LaneClaim:
    batches, entries = tuple(part[0] for part in parts), tuple(part[1] for part in parts)
    return LaneClaim(lane, batches, entries, None, is_last)
