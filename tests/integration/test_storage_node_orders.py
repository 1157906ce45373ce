"""The orders that a node remembers after a restart, on both databases."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.databases import KINDS, open_test_database
from tests.link_world import DOMAIN, LANE, PROVIDER_KEY, build_order, build_receipt

from steelyard.protocol.lanes import LaneState, extend_lane
from steelyard.protocol.messages import Order
from steelyard.storage.node_ledger import ReceiptRow, open_lane, record_batch
from steelyard.storage.node_orders import load_order_bytes
from steelyard.storage.operations import Operation
from steelyard.storage.writer import open_writer


def _fail(*_: object) -> None:
    raise AssertionError("a write failed")


@pytest.mark.parametrize("kind", KINDS)
def test_recent_orders_are_those_batched_since(kind: str) -> None:
    """Orders come back whole from batches at or after the time asked for, and from no older one."""

    async def story() -> None:
        async with open_test_database(kind) as database:
            writer = await open_writer(database, on_failure=_fail, on_crash=_fail)
            state, orders = LaneState(lane=LANE), []
            for batch in range(3):
                batch_orders = [build_order(bytes([batch, n]) * 8, 10**13) for n in range(2)]
                receipts = [build_receipt(order) for order in batch_orders]
                ids = [receipt.struct_hash() for receipt in receipts]
                after, signed = extend_lane(state, ids, [5, 5], PROVIDER_KEY, DOMAIN)
                rows = [
                    ReceiptRow(
                        order.call_id,
                        order.struct_hash(),
                        0,
                        receipt_id,
                        msgspec.msgpack.encode(order),
                        b"\x00" * 16,
                        msgspec.msgpack.encode(receipt),
                        5,
                    )
                    for order, receipt, receipt_id in zip(batch_orders, receipts, ids, strict=True)
                ]
                write = record_batch(after, signed, rows, now_ms=1_000 * batch)
                if batch == 0:
                    write = Operation((*open_lane(LANE, now_ms=0).steps, *write.steps))
                await writer.submit_flushed(write)
                state = after
                orders.append(batch_orders)
            await writer.aclose()

            async def recent(since_ms: int) -> set[bytes]:
                rows = await load_order_bytes(database, since_ms=since_ms)
                return {msgspec.msgpack.decode(row, type=Order).call_id for row in rows}

            assert await recent(1_000) == {order.call_id for batch in orders[1:] for order in batch}
            assert await recent(2_001) == set()

    asyncio.run(story())
