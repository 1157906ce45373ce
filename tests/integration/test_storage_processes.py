"""What processes that share a database know of each other, on both databases."""

from __future__ import annotations

import asyncio

import pytest
from tests.databases import KINDS, open_test_database

from steelyard.storage.processes import forget_process, list_links, note_process
from steelyard.storage.turns import lease_turns

pytestmark = pytest.mark.parametrize("kind", KINDS)
ACCOUNT, OTHER = b"\x01" * 20, b"\x02" * 20


def test_process_is_listed_until_it_stops_or_falls_silent(kind: str) -> None:
    """Nodes dial the links of those that live, of this account, and of no others."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            await note_process(database, "b", gateway=ACCOUNT, link_url="ws://b", now_ms=1_000)
            await note_process(database, "a", gateway=ACCOUNT, link_url="ws://old", now_ms=1_000)
            await note_process(database, "c", gateway=OTHER, link_url="ws://c", now_ms=9_000)
            await note_process(database, "a", gateway=ACCOUNT, link_url="ws://a", now_ms=9_000)
            assert await list_links(database, gateway=ACCOUNT, since_ms=1_000) == ["ws://a", "ws://b"]
            assert await list_links(database, gateway=ACCOUNT, since_ms=1_001) == ["ws://a"]
            await forget_process(database, "a")
            assert await list_links(database, gateway=ACCOUNT, since_ms=0) == ["ws://b"]

    asyncio.run(main())


def test_turns_of_a_key_are_shared_and_refill_evenly(kind: str) -> None:
    """However many lease at once, together they get what the key has in a minute, and then a turn every second."""

    async def main() -> None:
        async with open_test_database(kind) as database:

            async def lease(want: int, now_ms: int) -> tuple[int, float]:
                return await lease_turns(database, "key", per_minute=60, want=want, now_ms=now_ms)

            granted = await asyncio.gather(*(lease(7, 1_000) for _ in range(12)))
            assert sum(count for count, _ in granted) == 60
            assert await lease(7, 1_500) == (0, 0.5)
            assert await lease(7, 3_000) == (2, 0.0)
            assert await lease(7, 2_000) == (0, 1.0)
            assert (await lease(100, 10_000_000))[0] == 60

    asyncio.run(main())
