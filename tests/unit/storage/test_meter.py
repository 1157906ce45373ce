"""One process's view of one budget, before a lease that the test decides on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from steelyard.storage.meter import BudgetMeter


class Bank:
    """A budget of which one meter leases; `gate` holds leases back, `failure` breaks them."""

    def __init__(self, unleased_nano: int, *, share: int = 1) -> None:
        self.unleased_nano = unleased_nano
        self.share = share
        self.asked: list[tuple[int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.now_s = 0.0
        self.meter = BudgetMeter(self.lease, clock=lambda: self.now_s)

    async def lease(self, want_nano: int, least_nano: int) -> int:
        """Grant what is there, at least what is needed."""
        self.asked.append((want_nano, least_nano))
        await asyncio.sleep(0.001)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        granted = 0
        if self.unleased_nano >= least_nano:
            granted = max(least_nano, min(want_nano, self.unleased_nano // self.share))
        self.unleased_nano -= granted
        return granted


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's story to its end."""
    asyncio.run(story())


def test_reservations_of_100_at_once_fill_a_budget_of_50_exactly() -> None:
    """Fifty highest costs are reserved, the other fifty are refused, and nothing is left over."""

    async def story() -> None:
        bank = Bank(50 * 7 + 6, share=4)
        served = await asyncio.gather(*(bank.meter.reserve(7) for _ in range(100)))
        assert served.count(True) == 50
        assert bank.meter.reserved_nano == 350
        assert bank.meter.free_nano + bank.unleased_nano == 6

    play(story)


def test_reservation_within_the_lease_asks_nobody() -> None:
    """The hot path stays in memory while what was leased suffices."""

    async def story() -> None:
        bank = Bank(1_000)
        assert not bank.meter.try_reserve(1)
        assert await bank.meter.reserve(10)
        assert bank.meter.try_reserve(10)
        assert await bank.meter.reserve(10)
        assert len(bank.asked) == 1

    play(story)


def test_settling_frees_the_rest_for_others() -> None:
    """What a call did not cost can be reserved again, without the database."""

    async def story() -> None:
        bank = Bank(10)
        assert await bank.meter.reserve(10)
        assert not await bank.meter.reserve(1)
        bank.meter.settle(10, 4)
        assert await bank.meter.reserve(6)
        assert not await bank.meter.reserve(1)
        bank.meter.release(6)
        assert (bank.meter.free_nano, bank.meter.reserved_nano, bank.meter.unsaved_nano) == (6, 0, 4)
        assert bank.meter.take_unsaved() == 4
        assert bank.meter.take_unsaved() == 0

    play(story)


def test_waiter_is_served_by_a_call_that_settles_meanwhile() -> None:
    """A settlement that comes while the database is asked counts, even if the database has nothing."""

    async def story() -> None:
        bank = Bank(10)
        assert await bank.meter.reserve(10)
        bank.gate.clear()
        waiting = asyncio.create_task(bank.meter.reserve(8))
        await asyncio.sleep(0)
        bank.meter.settle(10, 1)
        assert await waiting
        bank.gate.set()
        await asyncio.sleep(0.01)
        assert bank.meter.reserved_nano == 8
        assert bank.meter.free_nano == 1

    play(story)


def test_large_request_that_is_refused_does_not_refuse_a_small_one() -> None:
    """Each waiter is judged by what it lacks itself."""

    async def story() -> None:
        bank = Bank(10)
        large, small = await asyncio.gather(bank.meter.reserve(11), bank.meter.reserve(10))
        assert (large, small) == (False, True)

    play(story)


def test_refusal_is_only_for_those_that_waited_when_the_database_was_asked() -> None:
    """A request that came later is asked for anew: the budget may have grown."""

    async def story() -> None:
        bank = Bank(0)
        bank.gate.clear()
        early = asyncio.create_task(bank.meter.reserve(5))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(bank.meter.reserve(5))
        await asyncio.sleep(0.01)
        bank.gate.set()
        assert not await early
        bank.unleased_nano = 5  # before the second answer: `late` is asked for in the next turn
        assert await late
        assert len(bank.asked) == 2

    play(story)


def test_many_refusals_cost_one_question() -> None:
    """A thousand requests on a spent budget don't ask the database a thousand times."""

    async def story() -> None:
        bank = Bank(0)
        assert not any(await asyncio.gather(*(bank.meter.reserve(5) for _ in range(1_000))))
        assert len(bank.asked) == 1

    play(story)


def test_caller_that_goes_away_leaves_no_reservation() -> None:
    """Cancelled before or after its lease came, a waiter holds nothing."""

    async def story() -> None:
        bank = Bank(100)
        bank.gate.clear()
        tasks = [asyncio.create_task(bank.meter.reserve(10)) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        bank.gate.set()
        await asyncio.sleep(0)
        tasks[1].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes[2] is True
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert bank.meter.reserved_nano == 10 * outcomes.count(True)
        assert bank.meter.free_nano + bank.meter.reserved_nano + bank.unleased_nano == 100

    play(story)


def test_lease_that_fails_is_raised_to_all_who_wait_and_asked_again_later() -> None:
    """A database that is away refuses nobody's budget: the error goes through, the meter stays usable."""

    async def story() -> None:
        bank = Bank(100)
        bank.failure = OSError("away")
        outcomes = await asyncio.gather(*(bank.meter.reserve(10) for _ in range(3)), return_exceptions=True)
        assert outcomes == [bank.failure] * 3
        bank.failure = None
        assert await bank.meter.reserve(10)
        assert bank.meter.reserved_nano == 10

    play(story)


def test_leases_grow_while_they_follow_each_other_quickly() -> None:
    """A busy budget is leased in growing pieces, a quiet one in small ones."""

    async def story() -> None:
        bank = Bank(10**9)
        for _ in range(2_000):
            assert await bank.meter.reserve(1)
        assert len(bank.asked) < 12
        await asyncio.sleep(0.01)  # a lease ahead may be on its way
        largest = bank.asked[-1][0]
        bank.meter.take_idle(0.0)
        bank.now_s += 100
        assert await bank.meter.reserve(1)
        assert bank.asked[-1][0] < largest

    play(story)


def test_idle_remainder_is_given_up_once_and_never_while_someone_waits() -> None:
    """Only what lay unused for the time is given back."""

    async def story() -> None:
        bank = Bank(100)
        assert await bank.meter.reserve(10)
        free = bank.meter.free_nano
        bank.now_s = 1.9
        assert bank.meter.take_idle(2.0) == 0
        bank.now_s = 2.0
        assert bank.meter.take_idle(2.0) == free
        assert bank.meter.take_idle(2.0) == 0
        bank.gate.clear()
        waiting = asyncio.create_task(bank.meter.reserve(5))
        await asyncio.sleep(0.01)
        bank.meter.release(10)
        bank.now_s = 9.0
        assert bank.meter.take_idle(2.0) == 0
        bank.gate.set()
        assert await waiting

    play(story)


@pytest.mark.parametrize(("reserved", "actual"), [(10, 11), (11, 5), (10, -1), (-1, -1)])
def test_settlement_that_contradicts_its_reservation_is_refused(reserved: int, actual: int) -> None:
    """Settling more than was reserved is our bug, and leaves the meter as it was."""

    async def story() -> None:
        bank = Bank(100)
        assert await bank.meter.reserve(10)
        with pytest.raises(ValueError, match="settle"):
            bank.meter.settle(reserved, actual)
        assert bank.meter.reserved_nano == 10

    play(story)


def test_call_that_costs_nothing_needs_no_budget() -> None:
    """A service sold for nothing is served on a spent budget."""

    async def story() -> None:
        bank = Bank(0)
        assert await bank.meter.reserve(0)
        bank.meter.settle(0, 0)
        assert bank.asked == []

    play(story)


def test_lease_ahead_comes_before_the_last_one_is_used_up() -> None:
    """A budget in steady use makes nobody wait after its first lease."""

    async def story() -> None:
        bank = Bank(10**9)
        assert await bank.meter.reserve(1)
        for _ in range(200):
            assert bank.meter.try_reserve(1)
            await asyncio.sleep(0.002)
        assert len(bank.asked) > 2

    play(story)
