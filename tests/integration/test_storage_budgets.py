"""Budgets on real databases: many requests at once, many processes, a crash, a late receipt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from tests.databases import KINDS, open_test_database

from steelyard.errors import BadRequest, Fault, NotFound, SteelyardError
from steelyard.storage import budgets
from steelyard.storage.budgets import Change, Run, save_slices
from steelyard.storage.database import Database
from steelyard.storage.meters import BudgetMeters
from steelyard.storage.writer import GroupWriter, open_writer

pytestmark = pytest.mark.parametrize("kind", KINDS)

RUN = Run("gateway-0", b"0" * 16)


@asynccontextmanager
async def open_both(kind: str, limit_nano: int | None) -> AsyncIterator[tuple[Database, GroupWriter]]:
    """Give a database with one budget `b`, and a writer."""

    def fail(*told: object) -> None:
        raise AssertionError(told)

    async with open_test_database(kind) as database:
        await budgets.set_limit(database, "b", limit_nano, now_ms=0)
        writer = await open_writer(database, on_failure=fail, on_crash=fail)
        try:
            yield database, writer
        finally:
            await writer.aclose()


def meters_of(database: Database, writer: GroupWriter, run: Run, failures: list[SteelyardError]) -> BudgetMeters:
    """Return the meters of a run, whose failures are remembered."""
    return BudgetMeters(database, writer, run, now_ms=lambda: 0, clock=time.monotonic, on_failure=failures.append)


async def lease(database: Database, want_nano: int, least_nano: int, run: Run = RUN) -> int:
    """Lease of the budget `b`."""
    return await budgets.lease(database, run, "b", want_nano=want_nano, least_nano=least_nano, now_ms=1)


def test_100_requests_at_once_fill_a_budget_of_50_highest_costs(kind: str) -> None:
    """Exactly fifty are served; each settles below its highest cost, and what is left is there again."""

    async def main() -> None:
        async with open_both(kind, 50 * 13) as (database, writer):
            failures: list[SteelyardError] = []
            meters = meters_of(database, writer, RUN, failures)
            meter = meters.meter("b")
            served = await asyncio.gather(*(meter.reserve(13) for _ in range(100)))
            assert served.count(True) == 50
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano, budget.unleased_nano) == (0, 650, 0)
            for _ in range(50):
                meter.settle(13, 3)
            await meters.aclose()
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano, budget.unleased_nano) == (150, 0, 500)
            assert failures == []

    asyncio.run(main())


def test_processes_that_share_a_budget_never_overspend_it_and_leave_next_to_nothing(kind: str) -> None:
    """Three processes with a hundred requests each: at most fifty are served in all, and no more than each process's
    broken remainder stays unused; given back, it serves the rest.
    """

    async def main() -> None:
        async with open_both(kind, 50 * 13) as (database, writer):
            failures: list[SteelyardError] = []
            runs = [meters_of(database, writer, Run(f"g{n}", bytes([n]) * 16), failures) for n in range(3)]
            requests = [run.meter("b").reserve(13) for _ in range(100) for run in runs]
            served = (await asyncio.gather(*requests)).count(True)
            assert 48 <= served <= 50
            for run in runs:
                await run.sweep(idle_s=0.0)
            rest = [await runs[0].meter("b").reserve(13) for _ in range(3)]
            assert served + rest.count(True) == 50
            budget = await budgets.load_budget(database, "b")
            assert budget.spent_nano + budget.leased_nano <= 50 * 13
            for run in runs:
                run.meter("b").release(run.meter("b").reserved_nano)
                await run.aclose()
            assert (await budgets.load_budget(database, "b")).unleased_nano == 50 * 13
            assert failures == []

    asyncio.run(main())


def test_leases_at_once_never_exceed_the_limit(kind: str) -> None:
    """Many processes that lease in the same moment get what there is, and not a nano more."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, _):
            runs = [Run(f"g{n}", bytes([n]) * 16) for n in range(8)]
            granted = await asyncio.gather(*(lease(database, 300, 90, run) for run in runs for _ in range(3)))
            assert sum(granted) <= 1_000
            assert 1_000 - sum(granted) < 90
            assert (await budgets.load_budget(database, "b")).leased_nano == sum(granted)

    asyncio.run(main())


def test_lease_takes_a_quarter_at_most_of_what_it_does_not_need(kind: str) -> None:
    """Ahead of need a process takes little of a small budget, so that the others find some."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, _):
            assert await lease(database, 900, 10) == 250
            assert await lease(database, 100, 10) == 100
            assert await lease(database, 1_000, 600) == 600
            assert await lease(database, 1_000, 51) == 0
            assert await lease(database, 1_000, 50) == 50
            assert await lease(database, 1, 1) == 0
            with pytest.raises(NotFound, match="nothing"):
                await budgets.lease(database, RUN, "nothing", want_nano=1, least_nano=1, now_ms=1)

    asyncio.run(main())


def test_budget_without_a_limit_grants_what_is_wanted(kind: str) -> None:
    """None is no limit."""

    async def main() -> None:
        async with open_both(kind, None) as (database, _):
            assert await lease(database, 10**15, 1) == 10**15
            assert (await budgets.load_budget(database, "b")).unleased_nano is None

    asyncio.run(main())


def test_limit_lowered_below_what_is_gone_refuses_further_leases(kind: str) -> None:
    """What is leased stays so; nothing more is granted until the limit is above it again."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, _):
            assert await lease(database, 100, 100) == 100
            await budgets.set_limit(database, "b", 60, now_ms=0)
            assert (await budgets.load_budget(database, "b")).unleased_nano == 0
            assert await lease(database, 1, 1) == 0
            await budgets.set_limit(database, "b", 101, now_ms=0)
            assert await lease(database, 1, 1) == 1
            with pytest.raises(BadRequest, match="limit_nano"):
                await budgets.set_limit(database, "b", -1, now_ms=0)

    asyncio.run(main())


def test_crashed_slice_counts_as_spent_until_it_is_reconciled(kind: str) -> None:
    """Its whole amount is held back; then its actual cost is spent and the rest free, once."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, writer):
            await lease(database, 400, 400)
            await writer.submit_flushed(save_slices(RUN, [Change("b", 30, 70)]))
            other = Run("gateway-1", b"1" * 16)
            assert await lease(database, 10, 10, other) == 10
            (crashed,) = await budgets.recover(database, "gateway-0")
            assert (crashed.amount_nano, crashed.spent_nano, crashed.state) == (330, 30, "crashed")
            assert await budgets.recover(database, "gateway-0") == [crashed]
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano) == (30, 310)
            for impossible in (29, 331):
                with pytest.raises(Fault, match="can't have spent"):
                    await budgets.reconcile(database, crashed, actual_nano=impossible)
            await budgets.reconcile(database, crashed, actual_nano=130)
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano) == (130, 10)
            with pytest.raises(Fault, match="closed"):
                await budgets.reconcile(database, crashed, actual_nano=130)
            assert await budgets.recover(database, "gateway-0") == []
            await budgets.charge(database, "b", spent_nano=900)
            assert (await budgets.load_budget(database, "b")).spent_nano == 1_030
            with pytest.raises(NotFound, match="no budget"):
                await budgets.charge(database, "other", spent_nano=1)

    asyncio.run(main())


def test_late_charge_to_a_key_stops_at_its_limit(kind: str) -> None:
    """What comes back after its reservation was freed lifts no key above its budget, leases of others counted in."""

    async def main() -> None:
        async with open_both(kind, 2_400) as (database, _):
            assert await lease(database, 600, 2_000) == 2_000
            assert await budgets.charge(database, "b", spent_nano=300, is_capped=True) == 300
            assert await budgets.charge(database, "b", spent_nano=300, is_capped=True) == 100
            assert await budgets.charge(database, "b", spent_nano=300, is_capped=True) == 0
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano) == (400, 2_000)
            assert await budgets.charge(database, "b", spent_nano=300) == 300
            await budgets.set_limit(database, "b", None, now_ms=0)
            assert await budgets.charge(database, "b", spent_nano=300, is_capped=True) == 300

    asyncio.run(main())


def test_process_that_was_taken_for_crashed_can_neither_lease_nor_save(kind: str) -> None:
    """Two processes of one name: the older one is stopped before it spends what is counted already."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, writer):
            await lease(database, 100, 100)
            await budgets.recover(database, "gateway-0")
            with pytest.raises(Fault, match="taken for crashed"):
                await lease(database, 100, 100)
            with pytest.raises(Fault) as fault:
                await writer.submit_flushed(save_slices(RUN, [Change("b", 10, 0)]))
            assert fault.value.code == "write_refused"
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano) == (0, 100)

    asyncio.run(main())


def test_save_of_more_than_a_slice_holds_changes_nothing(kind: str) -> None:
    """All budgets of one save move together or not at all."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, writer):
            await budgets.set_limit(database, "c", 1_000, now_ms=0)
            for budget_id in "bc":
                await budgets.lease(database, RUN, budget_id, want_nano=100, least_nano=100, now_ms=1)
            with pytest.raises(Fault):
                await writer.submit_flushed(save_slices(RUN, [Change("c", 10, 91), Change("b", 10, 10)]))
            for budget_id in "bc":
                budget = await budgets.load_budget(database, budget_id)
                assert (budget.spent_nano, budget.leased_nano) == (0, 100)

    asyncio.run(main())


def test_save_that_fails_holds_the_amount_back(kind: str) -> None:
    """What can't be saved is told, stays leased, and is never free twice."""

    async def main() -> None:
        async with open_both(kind, 1_000) as (database, writer):
            failures: list[SteelyardError] = []
            meters = meters_of(database, writer, RUN, failures)
            meter = meters.meter("b")
            assert await meter.reserve(100)
            meter.settle(100, 40)
            async with database.begin() as connection:
                await connection.execute(text("UPDATE slices SET state = 'crashed'"))
            await meters.sweep(idle_s=0.0)
            assert len(failures) == 1
            assert meter.free_nano == meter.unsaved_nano == 0
            await meters.aclose()
            (crashed,) = await budgets.recover(database, "gateway-0")
            await budgets.reconcile(database, crashed, actual_nano=40)
            budget = await budgets.load_budget(database, "b")
            assert (budget.spent_nano, budget.leased_nano) == (40, 0)

    asyncio.run(main())
