"""Law: whatever processes reserve, settle, give back, and however they crash, a budget is never overspent, and nothing
is lost once crashed slices are reconciled.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.databases import KINDS, empty_database_url

from steelyard.storage import budgets
from steelyard.storage.budgets import Run, Slice
from steelyard.storage.database import Database, open_database
from steelyard.storage.meter import BudgetMeter
from steelyard.storage.meters import BudgetMeters
from steelyard.storage.writer import GroupWriter, open_writer

LIMIT = 1_000


class Process:
    """One life of a process: its meters, and what truly happened in it (which a crash takes from it)."""

    def __init__(self, run: Run, writer: GroupWriter, meters: BudgetMeters, meter: BudgetMeter) -> None:
        self.run = run
        self.writer = writer
        self.meters = meters
        self.meter = meter
        self.reserved: list[int] = []
        self.spent = 0


class BudgetMachine(RuleBasedStateMachine):
    """Two processes on one budget; the model knows what was reserved and spent, whoever has forgotten it.

    Examples share a database: each has a budget, process names and run ids of its own.
    """

    url = ""
    examples = itertools.count()
    run_ids = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database: Database = self.do(open_database(self.url))
        example = next(self.examples)
        self.budget_id = f"budget-{example}"
        self.limit = LIMIT
        self.do(budgets.set_limit(self.database, self.budget_id, LIMIT, now_ms=0))
        self.spent_before = 0  # by lives that ended
        self.lost: dict[bytes, tuple[int, int]] = {}  # ended run → (truly spent, highest costs of what was in flight)
        self.crashed: dict[bytes, Slice] = {}
        self.processes = [self.do(self.start(name)) for name in (f"{example}-a", f"{example}-b")]

    def do(self, coroutine: Any) -> Any:
        """Run a coroutine on the machine's loop."""
        return self.runner.run(coroutine)

    async def start(self, name: str) -> Process:
        """Begin a life of a process, as the gateway does."""
        self.crashed |= {found.run_id: found for found in await budgets.recover(self.database, name)}
        for run_id in self.lost.keys() - self.crashed.keys():
            self.spent_before += self.lost.pop(run_id)[0]  # nothing of it was left open
        run = Run(name, next(self.run_ids).to_bytes(16, "big"))

        def fail(*told: object) -> None:
            raise AssertionError(told)

        writer = await open_writer(self.database, on_failure=fail, on_crash=fail)
        meters = BudgetMeters(self.database, writer, run, now_ms=lambda: 0, clock=lambda: 0.0, on_failure=fail)
        return Process(run, writer, meters, meters.meter(self.budget_id))

    @rule(which=st.integers(0, 1), costs=st.lists(st.integers(0, 400), min_size=1, max_size=6))
    def reserve(self, which: int, costs: list[int]) -> None:
        """Requests at once reserve their highest costs; one is refused only if the database has too little for it."""
        process = self.processes[which]

        async def all_at_once() -> list[bool]:
            return await asyncio.gather(*(process.meter.reserve(cost) for cost in costs))

        outcomes = self.do(all_at_once())
        process.reserved += [cost for cost, is_served in zip(costs, outcomes, strict=True) if is_served]
        unleased = self.do(budgets.load_budget(self.database, self.budget_id)).unleased_nano
        for cost, is_served in zip(costs, outcomes, strict=True):
            assert is_served or cost > process.meter.free_nano + unleased

    @rule(which=st.integers(0, 1), share=st.integers(0, 100), position=st.integers(0, 1_000))
    def settle(self, which: int, share: int, position: int) -> None:
        """A call ends at a part of its highest cost."""
        process = self.processes[which]
        if process.reserved:
            reserved = process.reserved.pop(position % len(process.reserved))
            actual = reserved * share // 100
            process.meter.settle(reserved, actual)
            process.spent += actual

    @rule(which=st.integers(0, 1), is_idle=st.booleans())
    def sweep(self, which: int, is_idle: bool) -> None:
        """What was settled is saved; an idle meter gives back."""
        self.do(self.processes[which].meters.sweep(idle_s=0.0 if is_idle else 1.0))

    @rule(limit=st.integers(0, 2 * LIMIT))
    def change_limit(self, limit: int) -> None:
        """The operator raises the limit, or lowers it to no less than what is gone."""
        budget = self.do(budgets.load_budget(self.database, self.budget_id))
        self.limit = max(limit, budget.spent_nano + budget.leased_nano)
        self.do(budgets.set_limit(self.database, self.budget_id, self.limit, now_ms=0))

    @rule(which=st.integers(0, 1), is_orderly=st.booleans())
    def end(self, which: int, is_orderly: bool) -> None:
        """A process stops in order, or forgets everything; its calls in flight may still cost what they reserved."""
        process = self.processes[which]
        self.do(process.meters.aclose() if is_orderly else self.forget(process))
        self.do(process.writer.aclose())
        self.lost[process.run.run_id] = (process.spent, sum(process.reserved))
        self.processes[which] = self.do(self.start(process.run.process))

    async def forget(self, process: Process) -> None:
        """End a process's task without letting it save anything."""
        task = process.meters._task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @rule(share=st.integers(0, 100))
    def reconcile(self, share: int) -> None:
        """The receipts of a crashed life are known at last."""
        if self.crashed:
            run_id, crashed = self.crashed.popitem()
            spent, in_flight = self.lost.pop(run_id)
            actual = spent + in_flight * share // 100
            self.do(budgets.reconcile(self.database, crashed, actual_nano=actual))
            self.spent_before += actual

    def true_total(self) -> int:
        """Return all that was spent or may still be, by anybody."""
        living = sum(process.spent + sum(process.reserved) for process in self.processes)
        return self.spent_before + living + sum(spent + in_flight for spent, in_flight in self.lost.values())

    @invariant()
    def never_overspent(self) -> None:
        """What was spent and reserved, forgotten or not, is covered by spent + leased, which is within the limit."""
        budget = self.do(budgets.load_budget(self.database, self.budget_id))
        assert self.true_total() <= budget.spent_nano + budget.leased_nano <= self.limit

    def teardown(self) -> None:
        """Once everything ended and is reconciled, the budget has spent what was spent, and holds nothing back."""
        for which in (0, 1):
            for reserved in self.processes[which].reserved:
                self.processes[which].meter.release(reserved)
            self.processes[which].reserved.clear()
            self.end(which, is_orderly=True)
            self.do(self.processes[which].meters.aclose())
            self.do(self.processes[which].writer.aclose())
        while self.crashed:
            self.reconcile(share=50)
        budget = self.do(budgets.load_budget(self.database, self.budget_id))
        self.do(self.database.aclose())
        self.runner.close()
        assert not self.lost
        assert (budget.spent_nano, budget.leased_nano) == (self.spent_before, 0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
def test_budget_is_never_overspent_and_never_lost(kind: str) -> None:
    """No order of requests, settlements, sweeps, limits, stops, crashes and reconciliations breaks the law."""

    async def main() -> None:
        async with empty_database_url(kind) as url:
            machine = type("Machine", (BudgetMachine,), {"url": url})
            await asyncio.to_thread(run_state_machine_as_test, machine)  # it has a loop of its own

    asyncio.run(main())
