"""The desk for lies: each is kept at once, proven once, and never given up while it may still be proven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.databases import KINDS, open_test_database
from tests.lie_court import MemoryCourt
from tests.unit.protocol.test_lies import DOMAIN, sign_batch, two_batches

from steelyard.chain.fault_desk import LONGEST_PAUSE_MS, NOTHING_PAUSE_MS, TAKEN_MS, FaultDesk
from steelyard.protocol.lies import Lie, find_two_batches
from steelyard.storage.database import Database
from steelyard.storage.events import list_events
from steelyard.storage.lies import MAX_HALVES, MAX_WAITING, LieState, keep_half, load_halves, load_lies


def lie_about(lane_id: int) -> Lie:
    """Return a lie about a lane of that number."""
    halves = [msgspec.structs.replace(half.batch, lane_id=lane_id) for half in two_batches(seq=4)]
    lie = find_two_batches(*map(sign_batch, halves), DOMAIN)
    assert lie is not None
    return lie


@dataclass
class Room:
    """A desk with a clock by hand, before a court that is a dictionary."""

    database: Database
    court: MemoryCourt = field(default_factory=MemoryCourt)
    now_ms: int = 1_000_000

    def __post_init__(self) -> None:
        self.desk = self.new_desk()

    def new_desk(self) -> FaultDesk:
        """Return a desk as another process, or this one's next life, has it."""
        return FaultDesk(self.database, self.court, now_ms=lambda: self.now_ms)

    async def states(self) -> list[LieState]:
        """How far each lie is, the oldest first."""
        return [LieState(row.state) for row in await load_lies(self.database)]

    async def codes(self) -> list[str]:
        """What the events say, the oldest first."""
        return [event.code for event in await list_events(self.database)][::-1]


@asynccontextmanager
async def open_room(kind: str = "sqlite") -> AsyncIterator[Room]:
    """Give an empty desk."""
    async with open_test_database(kind) as database:
        yield Room(database)


@pytest.mark.parametrize("kind", KINDS)
def test_lie_is_kept_told_and_proven_once(kind: str) -> None:
    """Whoever finds it again changes nothing, and a second desk on the database sends nothing."""

    async def story() -> None:
        async with open_room(kind) as room:
            lie = lie_about(9)
            assert await room.desk.keep(lie)
            assert not await room.desk.keep(lie)
            await asyncio.gather(room.desk.beat(), room.new_desk().beat())
            await room.new_desk().beat()
            room.now_ms += TAKEN_MS + 1
            await room.new_desk().beat()
            assert room.court.sent == [lie]
            assert await room.states() == [LieState.PROVEN]
            assert sorted(await room.codes()) == ["lie_found", "lie_proven"]
            assert not await room.desk.keep(lie)

    asyncio.run(story())


def test_lie_of_a_process_that_was_killed_is_proven_by_its_next_life() -> None:
    """What was kept, or just being sent, is sent again after a while; what the chain has already is no error."""

    async def story() -> None:
        async with open_room() as room:
            lie = lie_about(9)
            await room.desk.keep(lie)
            await room.new_desk().beat()
            assert room.court.sent == [lie]

            other = lie_about(10)
            await room.desk.keep(other)

            async def die(lie: Lie) -> None:
                raise asyncio.CancelledError

            take, room.court.prove = room.court.prove, die  # type: ignore[method-assign]
            with pytest.raises(asyncio.CancelledError):
                await room.desk.beat()
            room.court.prove = take  # type: ignore[method-assign]
            await room.new_desk().beat()
            assert room.court.sent == [lie]
            room.now_ms += TAKEN_MS
            await room.new_desk().beat()
            assert room.court.sent == [lie, other]

    asyncio.run(story())


def test_lie_that_somebody_else_proved_is_no_error() -> None:
    """Seen before it is sent, or refused when it is: both are its end, and nothing is slashed twice."""

    async def story() -> None:
        async with open_room() as room:
            room.court.known.add(lie_about(9).id)
            room.court.refuses = "AlreadyProven(id=0x00)"
            for lane_id in (9, 10):
                await room.desk.keep(lie_about(lane_id))
            await room.desk.beat()
            assert await room.states() == [LieState.PROVEN_BY_OTHERS] * 2
            assert [lie.what for lie in room.court.sent] == [lie_about(10).what]
            assert room.desk.counts["two_batches", "proven_by_others"] == 2

    asyncio.run(story())


def test_lie_waits_while_the_chain_is_silent_or_there_is_nothing_to_slash() -> None:
    """The pauses grow to a bound and never end; when it can be proven, it is."""

    async def story() -> None:
        async with open_room() as room:
            await room.desk.keep(lie_about(9))
            room.court.is_silent = True
            for _ in range(20):
                await room.desk.beat()
                room.now_ms += LONGEST_PAUSE_MS + 1
            assert await room.states() == [LieState.WAITING]
            assert room.court.sent == []
            room.court.is_silent, room.court.refuses = False, "NothingAtStake(account=0x02, role=1)"
            await room.desk.beat()
            room.now_ms += NOTHING_PAUSE_MS - 1
            await room.desk.beat()
            assert len(room.court.sent) == 1
            room.court.refuses, room.now_ms = "", room.now_ms + 1
            await room.desk.beat()
            assert await room.states() == [LieState.PROVEN]

    asyncio.run(story())


def test_lie_that_the_contract_finds_none_is_given_up_and_told() -> None:
    """It would be our own defect: sent once, never again."""

    async def story() -> None:
        async with open_room() as room:
            room.court.refuses = "NoContradiction"
            await room.desk.keep(lie_about(9))
            for _ in range(3):
                await room.desk.beat()
                room.now_ms += LONGEST_PAUSE_MS + TAKEN_MS
            assert len(room.court.sent) == 1
            assert await room.states() == [LieState.REFUSED]
            assert await room.codes() == ["lie_found", "lie_refused"]

    asyncio.run(story())


def test_lies_are_kept_but_not_sent_without_a_court() -> None:
    """`is_proving = false` keeps both halves for a later start with it."""

    async def story() -> None:
        async with open_room() as room:
            silent = FaultDesk(room.database, None, now_ms=lambda: room.now_ms)
            await silent.keep(lie_about(9))
            await asyncio.wait_for(silent.run(), 5)
            await silent.beat()
            assert await room.states() == [LieState.WAITING]
            await room.desk.beat()
            assert len(room.court.sent) == 1

    asyncio.run(story())


def test_desk_proves_what_is_found_at_once() -> None:
    """A lie wakes the desk; it does not wait for the next look."""

    async def story() -> None:
        async with open_room() as room:
            running = asyncio.create_task(room.desk.run())
            await asyncio.sleep(0.1)
            await room.desk.keep(lie_about(9))
            async with asyncio.timeout(5):
                while await room.states() != [LieState.PROVEN]:  # noqa: ASYNC110  # it is in a database
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_liar_makes_us_keep_is_bounded(kind: str) -> None:
    """So many lies wait per liar, so many halves per lane; both once each."""

    async def story() -> None:
        async with open_room(kind) as room:
            kept = [await room.desk.keep(lie_about(lane_id)) for lane_id in range(9, 9 + MAX_WAITING + 2)]
            assert kept == [True] * MAX_WAITING + [False] * 2
            halves = [bytes([number]) * 32 for number in (1, 1, 2, 3, 4, 5)]
            done = [await keep_half(room.database, half, b"lane", half, now_ms=7) for half in halves]
            assert done == [True, False, True, True, True, False]
            assert [content for _, content in await load_halves(room.database)] == sorted(set(halves))[:MAX_HALVES]

    asyncio.run(story())
