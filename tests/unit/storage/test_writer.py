"""The group writer's own rules, before a backend that only remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from steelyard.errors import Fault, Unavailable
from steelyard.storage.events import PeerEvent, record_event
from steelyard.storage.operations import Operation
from steelyard.storage.writer import GroupWriter


def operation(name: str) -> Operation:
    """Return a write that can be told from others."""
    return record_event(PeerEvent(0, name, "code", ""))


def names(operations: list[Operation]) -> list[str]:
    """Return the names of operations; a flush has none."""
    return [step[1][1] for operation in operations for step in operation.steps]


class Memory:
    """A backend that remembers its groups, refuses operations of some names, and fails or waits when told to."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[str], bool]] = []
        self.refused: set[str] = set()
        self.failure: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_closed = False

    async def write(self, operations: list[Operation], *, is_awaited: bool) -> dict[int, Exception]:
        """Remember a group."""
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.groups.append((names(operations), is_awaited))
        return {
            index: ValueError("no")
            for index, operation in enumerate(operations)
            if set(names([operation])) & self.refused
        }

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True


class World:
    """A writer, its backend, and what its callbacks were told."""

    def __init__(self, capacity: int = 100, gather_s: float = 0.0) -> None:
        self.backend = Memory()
        self.failures: list[tuple[str, Fault]] = []
        self.crashes: list[BaseException] = []
        self.writer = GroupWriter(
            self.backend,
            on_failure=lambda operation, fault: self.failures.append((names([operation])[0], fault)),
            on_crash=self.crashes.append,
            capacity=capacity,
            gather_s=gather_s,
        )


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's story to its end."""
    asyncio.run(story())


def test_operations_submitted_together_are_one_group_in_their_order() -> None:
    """What is queued in one turn of the loop goes in one transaction; a later one in the next."""

    async def story() -> None:
        world = World()
        for name in "abc":
            world.writer.submit(operation(name))
        await world.writer.submit_flushed(operation("d"))
        await world.writer.submit_flushed(operation("e"))
        assert world.backend.groups == [(["a", "b", "c", "d"], True), (["e"], True)]
        world.writer.submit(operation("f"))
        await world.writer.aclose()
        assert [name for group, _ in world.backend.groups for name in group] == list("abcdef")
        assert world.backend.is_closed

    play(story)


def test_group_that_nobody_awaits_says_so() -> None:
    """Only a group with an awaited operation asks the backend to reach the disk itself."""

    async def story() -> None:
        world = World()
        world.writer.submit(operation("a"))
        await asyncio.sleep(0.01)
        assert world.backend.groups == [(["a"], False)]
        await world.writer.aclose()

    play(story)


def test_first_group_starts_at_once_and_the_next_gathers() -> None:
    """An idle writer does not wait; a busy one collects for `gather_s`."""

    async def story() -> None:
        world = World(gather_s=0.05)
        started = asyncio.get_running_loop().time()
        await world.writer.submit_flushed(operation("a"))
        first_s = asyncio.get_running_loop().time() - started
        world.writer.submit(operation("b"))
        await asyncio.sleep(0.01)
        await world.writer.submit_flushed(operation("c"))
        assert first_s < 0.04 < asyncio.get_running_loop().time() - started
        assert [group for group, _ in world.backend.groups] == [["a"], ["b", "c"]]
        await world.writer.aclose()

    play(story)


def test_group_that_nobody_awaits_gathers_twice_as_long() -> None:
    """An awaited write ends the gathering; without one it goes on, so that fewer groups are written."""

    async def story() -> None:
        world = World(gather_s=0.05)
        await world.writer.submit_flushed(operation("a"))
        world.writer.submit(operation("b"))
        await asyncio.sleep(0.07)
        assert [group for group, _ in world.backend.groups] == [["a"]]
        await asyncio.sleep(0.05)
        assert [group for group, _ in world.backend.groups] == [["a"], ["b"]]
        world.writer.submit(operation("c"))
        await asyncio.sleep(0.005)
        started = asyncio.get_running_loop().time()
        await world.writer.submit_flushed(operation("d"))
        assert asyncio.get_running_loop().time() - started < 0.06
        assert world.backend.groups[2:] == [(["c", "d"], True)]
        await world.writer.aclose()

    play(story)


def test_full_queue_refuses_and_keeps_what_it_had() -> None:
    """The caller sees `storage_busy` with a time to retry; everything accepted is written."""

    async def story() -> None:
        world = World(capacity=3)
        for name in "abc":
            world.writer.submit(operation(name))
        for refuse in (world.writer.submit, world.writer.submit_flushed):
            with pytest.raises(Unavailable) as full:
                await refuse(operation("d"))  # type: ignore[func-returns-value, misc]
            assert full.value.code == "storage_busy"
            assert full.value.retry_after_s
        assert world.writer.queued == 3
        await asyncio.sleep(0.01)
        world.writer.submit(operation("e"))
        await world.writer.aclose()
        assert [name for group, _ in world.backend.groups for name in group] == list("abce")

    play(story)


def test_refused_operation_surfaces_and_the_others_are_written() -> None:
    """An awaited refusal is raised where it is awaited, another goes to `on_failure`; both carry their cause."""

    async def story() -> None:
        world = World()
        world.backend.refused = {"b", "c"}
        for name in "ab":
            world.writer.submit(operation(name))
        with pytest.raises(Fault, match="insert events") as fault:
            await world.writer.submit_flushed(operation("c"))
        assert fault.value.code == "write_refused"
        assert isinstance(fault.value.__cause__, ValueError)
        assert [name for name, _ in world.failures] == ["b"]
        await world.writer.submit_flushed(operation("d"))
        await world.writer.aclose()
        assert world.crashes == []

    play(story)


def test_caller_that_goes_away_does_not_withdraw_its_write() -> None:
    """A cancelled wait leaves the write in place, and its refusal then goes to `on_failure`."""

    async def story() -> None:
        world = World()
        world.backend.refused = {"b"}
        tasks = [asyncio.create_task(world.writer.submit_flushed(operation(name))) for name in "ab"]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await world.writer.aclose()
        assert [name for group, _ in world.backend.groups for name in group] == ["a", "b"]
        assert [name for name, _ in world.failures] == ["b"]

    play(story)


def test_failing_database_ends_the_writer_loudly() -> None:
    """One call of `on_crash`; whoever waits, and whoever comes later, is told."""

    async def story() -> None:
        world = World()
        world.backend.gate.clear()
        waits = [asyncio.create_task(world.writer.submit_flushed(operation(name))) for name in "ab"]
        await asyncio.sleep(0.01)
        waits.append(asyncio.create_task(world.writer.submit_flushed(operation("c"))))
        await asyncio.sleep(0.01)
        world.backend.failure = OSError("disk full")
        world.backend.gate.set()
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        assert world.crashes == [world.backend.failure]
        with pytest.raises(Unavailable, match="stopping"):
            world.writer.submit(operation("d"))
        await world.writer.aclose()

    play(story)


def test_closed_writer_refuses_and_closes_twice() -> None:
    """After `aclose` nothing is accepted; closing again does no harm."""

    async def story() -> None:
        world = World()
        await world.writer.aclose()
        with pytest.raises(Unavailable, match="closed"):
            world.writer.submit(operation("a"))
        await world.writer.aclose()

    play(story)


def test_many_operations_are_split_into_groups_of_bounded_size() -> None:
    """A long queue is several transactions, so that no lock is held for long."""

    async def story() -> None:
        world = World(capacity=5_000)
        for number in range(4_500):
            world.writer.submit(operation(str(number)))
        await world.writer.flush()
        sizes = [len(group) for group, _ in world.backend.groups]
        assert sizes == [2_000, 2_000, 500]
        await world.writer.aclose()

    play(story)
