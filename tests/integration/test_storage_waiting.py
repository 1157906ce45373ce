"""Checks that wait for evidence, on both databases: begun and ended with what else they go with, moved in between."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.databases import KINDS, open_test_database

from steelyard.storage import verdicts
from steelyard.storage.waiting import WaitingRow, is_epoch_waiting, load_waiting, move_waiting


def _verdict(number: int, receipt: bytes) -> verdicts.VerdictRow:
    return verdicts.VerdictRow(
        number, receipt, 3, b"p" * 20, b"s" * 32, b"g" * 20, 0, "", "rate", 0, 64, bytes(32), b"s" * 65, None, 1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_check_waits_from_its_read_to_its_verdict(kind: str) -> None:
    """While it waits its receipt is known and its epoch is not whole; the verdict ends both, once."""

    async def story() -> None:
        async with open_test_database(kind) as database:
            waits, judged = WaitingRow(b"w" * 32, 3, b"call"), _verdict(1, b"r" * 32)
            await verdicts.save_read(database, b"g" * 20, b"feed", [judged], [], [waits])
            assert await load_waiting(database) == [waits]
            assert await verdicts.known_receipts(database, [b"w" * 32, b"r" * 32, b"x" * 32]) == {b"w" * 32, b"r" * 32}
            assert [await is_epoch_waiting(database, epoch) for epoch in (2, 3)] == [False, True]
            moved = msgspec.structs.replace(waits, step=2, due_s=99, block=7)
            await move_waiting(database, moved)
            assert await load_waiting(database) == [moved]
            await verdicts.save_waited(database, _verdict(2, b"w" * 32), [(b"p" * 20, b"s" * 32, b"state")])
            assert await load_waiting(database) == []
            assert not await is_epoch_waiting(database, 3)
            assert [row.number for row in await verdicts.load_verdicts(database, epoch=3)] == [1, 2]
            assert await verdicts.load_suspicions(database) == {(b"p" * 20, b"s" * 32): b"state"}

    asyncio.run(story())
