"""Writes that find the queue full wait in order, and nothing overtakes them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from steelyard.errors import Unavailable
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.settlement import Settlement
from steelyard.storage.operations import Operation


class NarrowWriter:
    """A writer with so much room; `flush` makes room again."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[Operation] = []
        self.failure: Unavailable | None = None

    def submit(self, operation: Operation) -> None:
        if self.failure is not None:
            raise self.failure
        if self.room == 0:
            raise Unavailable("full", code="storage_busy")
        self.room -= 1
        self.taken.append(operation)

    async def flush(self) -> None:
        if self.failure is not None:
            raise self.failure


def _settlement(writer: NarrowWriter) -> Settlement:
    return Settlement(
        cast(Any, writer),
        cast(Any, None),
        Metrics(),
        b"\x01" * 16,
        clock=lambda: 0.0,
        clock_ms=lambda: 0,
        grace_s=0.0,
    )


def test_submit_behind_a_waiting_write_keeps_the_order() -> None:
    """A batch submitted after its lane's row that had to wait is written after it."""

    async def story() -> None:
        writer = NarrowWriter(room=1)
        settlement = _settlement(writer)
        operations = [Operation(()) for _ in range(4)]
        for operation in operations[:2]:
            settlement.submit(operation)
        assert settlement.is_behind
        assert not settlement.submit_if_room(Operation(()))
        writer.room = 1
        settlement.submit(operations[2])
        writer.room = 8
        settlement.submit(operations[3])
        assert [id(operation) for operation in writer.taken] == [id(operation) for operation in operations]
        assert not settlement.is_behind

    asyncio.run(story())


def test_flush_waits_for_writes_that_had_no_room() -> None:
    """It returns once nothing waits; a database that failed is told, not waited for."""

    async def story() -> None:
        writer = NarrowWriter(room=0)
        settlement = _settlement(writer)
        settlement.submit(Operation(()))
        flushing = asyncio.create_task(settlement.flush())
        await asyncio.sleep(0.05)
        assert not flushing.done()
        writer.room = 1
        await asyncio.wait_for(flushing, 1)
        assert len(writer.taken) == 1
        writer.failure = Unavailable("gone", code="storage_unavailable")
        with pytest.raises(Unavailable, match="gone"):
            await settlement.flush()
        settlement.submit(Operation(()))
        with pytest.raises(Unavailable, match="gone"):
            await asyncio.wait_for(settlement.flush(), 1)

    asyncio.run(story())
