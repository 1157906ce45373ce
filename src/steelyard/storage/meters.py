"""All budgets of one run: their meters, and the one task that writes to the database what the meters did.

1. Every `SWEEP_S` what was settled is saved in one write, and what lay idle for `IDLE_S` is given back.
2. A failed save is not repeated: what it moved stays leased, and the next start reconciles it.
3. `aclose` saves all and closes the slices; what calls in flight still hold is left for `recover`.

Law: docs/spec/storage.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from steelyard.errors import SteelyardError
from steelyard.storage.budgets import Change, Run, close_slices, lease, save_slices
from steelyard.storage.database import Database
from steelyard.storage.meter import BudgetMeter
from steelyard.storage.writer import GroupWriter

SWEEP_S = 1.0
IDLE_S = 2.0


class BudgetMeters:
    """The meters of one run, made as they are asked for and kept.

    Args:
        run: who leases. now_ms: wall clock, for the records. clock: monotonic seconds.
        on_failure: told of a save that failed; must not raise.
    """

    def __init__(
        self,
        database: Database,
        writer: GroupWriter,
        run: Run,
        *,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
        on_failure: Callable[[SteelyardError], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._run = run
        self._now_ms = now_ms
        self._clock = clock
        self._on_failure = on_failure
        self._meters: dict[str, BudgetMeter] = {}
        self._task = asyncio.create_task(self._sweep_always(), name="budget-sweep")

    def meter(self, budget_id: str) -> BudgetMeter:
        """Return the meter of a budget, always the same one."""
        meter = self._meters.get(budget_id)
        if meter is None:
            meter = self._meters[budget_id] = BudgetMeter(partial(self._lease, budget_id), clock=self._clock)
        return meter

    async def sweep(self, idle_s: float = IDLE_S) -> None:
        """Save what was settled and give back what lay idle for `idle_s`; done every second by itself."""
        changes = []
        for budget_id, meter in self._meters.items():
            change = Change(budget_id, meter.take_unsaved(), meter.take_idle(idle_s))
            if change.spent_nano or change.returned_nano:
                changes.append(change)
        if changes:
            try:
                await self._writer.submit_flushed(save_slices(self._run, changes))
            except SteelyardError as error:
                self._on_failure(error)

    async def aclose(self) -> None:
        """Stop, save everything, and close the slices that hold nothing more. The writer must still be open."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.sweep(idle_s=0.0)
        await close_slices(self._database, self._run)

    async def _lease(self, budget_id: str, want_nano: int, least_nano: int) -> int:
        return await lease(
            self._database,
            self._run,
            budget_id,
            want_nano=want_nano,
            least_nano=least_nano,
            now_ms=self._now_ms(),
        )

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.sweep()
