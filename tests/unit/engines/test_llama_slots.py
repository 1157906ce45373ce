"""engines/llama_slots.py: the right cache for each prompt, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from steelyard.engines.llama_slots import Slot, SlotPool
from steelyard.errors import Unavailable


def test_prompt_takes_the_slot_that_holds_most_of_it() -> None:
    """The longest shared beginning wins, at least the last token is processed anew, and among equals the one that was
    free for longest.
    """

    async def run() -> None:
        pool = SlotPool(3, 0)
        first, second, third = [await pool.take([token]) for token in (1, 2, 3)]
        first.held, second.held, third.held = [1, 2], [1, 2, 3, 4], [9]
        for slot in (third, first, second):
            pool.give_back(slot)
        found = await pool.take([1, 2, 3])
        assert found is second
        assert found.held == [1, 2]
        assert await pool.take([7, 7]) is third
        assert third.held == []

    asyncio.run(run())


def test_prompt_that_no_slot_knows_goes_beside_a_busy_one() -> None:
    """Neighbours are computed together; with nobody busy the slot that was free for longest is taken."""

    async def run() -> None:
        pool = SlotPool(4, 0)
        taken = [await pool.take([token]) for token in range(4)]
        assert [slot.index for slot in taken] == [0, 1, 2, 3]
        for index in (1, 3, 0):
            pool.give_back(taken[index])
        assert (await pool.take([9])).index == 1
        assert (await pool.take([9])).index == 3
        for index in (2, 1, 3):
            pool.give_back(taken[index])
        assert (await pool.take([9])).index == 0

    asyncio.run(run())


def test_memory_that_cannot_be_cut_is_forgotten_as_a_whole() -> None:
    """A state holds all of its tokens or none."""
    slot = Slot(0, can_cut=False)
    slot.held = [1, 2, 3]
    slot.cut(3)
    assert slot.held == [1, 2, 3]
    slot.cut(2)
    assert slot.held == []


def test_those_who_wait_are_served_in_order_and_their_queue_is_bounded() -> None:
    """A slot given back goes to the first who still waits; one too many is refused."""

    async def run() -> None:
        pool = SlotPool(1, 2)
        slot = await pool.take([1])
        waiting = [asyncio.create_task(pool.take([token])) for token in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="queue is full"):
            await pool.take([4])
        waiting[0].cancel()
        await asyncio.sleep(0)
        pool.give_back(slot)
        assert await waiting[1] is slot

    asyncio.run(run())


def test_slot_that_came_in_the_moment_of_giving_up_is_not_lost() -> None:
    """Cancelled between the handing over and the waking up, a waiting one passes the slot on."""

    async def run() -> None:
        pool = SlotPool(1, 2)
        slot = await pool.take([1])
        waiting = [asyncio.create_task(pool.take([token])) for token in (2, 3)]
        await asyncio.sleep(0)
        pool.give_back(slot)
        waiting[0].cancel()
        assert await asyncio.wait_for(waiting[1], 1) is slot
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]

    asyncio.run(run())


def test_closed_pool_tells_those_who_wait_and_those_who_come() -> None:
    """Nobody waits for a slot of an engine that is gone."""

    async def run() -> None:
        pool = SlotPool(1, 2)
        await pool.take([1])
        waiting = asyncio.create_task(pool.take([2]))
        await asyncio.sleep(0)
        pool.close()
        for attempt in (waiting, pool.take([3])):
            with pytest.raises(Unavailable, match="closed"):
                await attempt

    asyncio.run(run())
