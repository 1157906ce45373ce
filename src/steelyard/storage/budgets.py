"""Budgets and the slices that processes lease from them: durable, and right with any number of processes.

1. An API key's budget and the gateway's escrow are both budgets: one mechanism.
2. `leased_nano` of a budget is the sum over its slices of `amount - spent`; a lease is one conditional update, so
   `spent + leased <= limit` holds at every commit.
3. A run is one life of a process. It has one slice per budget, grown by `lease`, moved and shrunk by `save_slices`.
4. The slice of a run that crashed stays leased, so it counts as spent, until `reconcile` says what was.

Law: docs/spec/storage.md, section 5; docs/spec/money.md, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Update, bindparam, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from steelyard.errors import Fault, NotFound
from steelyard.storage.amounts import checked_nano
from steelyard.storage.database import Database
from steelyard.storage.operations import Operation, Row, Statement
from steelyard.storage.schema import budgets, slices

_SHARE = 4
"""A lease beyond what is needed takes at most this part of what a budget has left, so that none is stranded."""

_SPENT = bindparam("now_spent", type_=BigInteger)
_RETURNED = bindparam("now_returned", type_=BigInteger)

# The budget before the slice, as in `lease`: whoever locks both locks them in this order.
_MOVE_BUDGET = Statement(
    "move budgets",
    update(budgets)
    .where(budgets.c.budget_id == bindparam("of_budget"))
    .values(
        spent_nano=budgets.c.spent_nano + _SPENT,
        leased_nano=budgets.c.leased_nano - _SPENT - _RETURNED,
    ),
    ("of_budget", "now_spent", "now_returned"),
    rank=1,
)
_MOVE_SLICE = Statement(
    "move slices",
    update(slices)
    .where(
        slices.c.run_id == bindparam("of_run"),
        slices.c.budget_id == bindparam("of_budget"),
        slices.c.state == literal_column("'open'"),
        slices.c.amount_nano - slices.c.spent_nano >= _SPENT + _RETURNED,
    )
    .values(
        spent_nano=slices.c.spent_nano + _SPENT,
        amount_nano=slices.c.amount_nano - _RETURNED,
    ),
    ("of_run", "of_budget", "now_spent", "now_returned"),
    rank=2,
)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit and what of it is gone; `limit_nano` None is no limit."""

    budget_id: str
    limit_nano: int | None
    spent_nano: int
    leased_nano: int
    created_ms: int

    @property
    def unleased_nano(self) -> int | None:
        """Return what can still be leased (never below 0), or None without a limit."""
        return None if self.limit_nano is None else max(0, self.limit_nano - self.spent_nano - self.leased_nano)


@dataclass(frozen=True, slots=True)
class Slice:
    """What one run holds of a budget; `spent_nano` of `amount_nano` is settled."""

    run_id: bytes
    budget_id: str
    process: str
    amount_nano: int
    spent_nano: int
    state: str
    opened_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """What of a slice is to be settled, and what to be given back."""

    budget_id: str
    spent_nano: int
    returned_nano: int


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a process: `process` is its name, the same after a restart; `run_id` 16 bytes, new each time."""

    process: str
    run_id: bytes


async def create_budget(connection: AsyncConnection, budget_id: str, limit_nano: int | None, *, now_ms: int) -> None:
    """Add a budget inside the caller's transaction; raises BadRequest for a limit that can't be held."""
    if limit_nano is not None:
        checked_nano(limit_nano, "limit_nano")
    await connection.execute(
        insert(budgets).values(
            budget_id=budget_id, limit_nano=limit_nano, spent_nano=0, leased_nano=0, created_ms=now_ms
        )
    )


async def change_limit(connection: AsyncConnection, budget_id: str, limit_nano: int | None) -> bool:
    """Set a budget's limit inside the caller's transaction; False if there is no such budget.

    A limit below what is spent and leased refuses every further lease; what is leased stays so.
    """
    if limit_nano is not None:
        checked_nano(limit_nano, "limit_nano")
    changed = update(budgets).where(budgets.c.budget_id == budget_id).values(limit_nano=limit_nano)
    return bool((await connection.execute(changed)).rowcount)


async def set_limit(database: Database, budget_id: str, limit_nano: int | None, *, now_ms: int) -> None:
    """Set a budget's limit, creating the budget if it is new; raises BadRequest for one that can't be held."""
    async with database.begin() as connection:
        if not await change_limit(connection, budget_id, limit_nano):
            await create_budget(connection, budget_id, limit_nano, now_ms=now_ms)


async def load_budget(database: Database, budget_id: str) -> Budget:
    """Return a budget; raises NotFound."""
    async with database.read() as connection:
        row = (await connection.execute(select(budgets).where(budgets.c.budget_id == budget_id))).first()
    if row is None:
        raise NotFound(f"there is no budget {budget_id!r}")
    return Budget(*row)


async def lease(database: Database, run: Run, budget_id: str, *, want_nano: int, least_nano: int, now_ms: int) -> int:
    """Grow the run's slice of a budget and return by how much: 0 if less than `least_nano` is unleased.

    Args:
        want_nano: what would spare further leases; granted up to a quarter of what is unleased.
        least_nano: what is needed now, at least 1.

    Raises:
        NotFound: no such budget.
        Fault: the slice was taken for crashed: another process of this name runs.
    """
    async with database.begin() as connection:
        budget = await _lock_budget(connection, budget_id)
        if budget is None:
            raise NotFound(f"there is no budget {budget_id!r}")
        granted = _grant(budget.unleased_nano, want_nano, least_nano)
        if granted == 0:
            return 0
        await _must_change(
            connection,
            update(budgets)
            .where(
                budgets.c.budget_id == budget_id,
                (budgets.c.limit_nano.is_(None))
                | (budgets.c.spent_nano + budgets.c.leased_nano + granted <= budgets.c.limit_nano),
            )
            .values(leased_nano=budgets.c.leased_nano + granted),
            f"budget {budget_id} changed under its lock",
        )
        grown = await connection.execute(
            update(slices)
            .where(slices.c.run_id == run.run_id, slices.c.budget_id == budget_id, slices.c.state != "crashed")
            .values(amount_nano=slices.c.amount_nano + granted, state="open")
        )
        if grown.rowcount == 0:
            if await _load_slice(connection, run.run_id, budget_id) is not None:
                raise Fault(f"process {run.process!r} was taken for crashed: does another one of that name run?")
            await connection.execute(insert(slices).values(_new_slice(run, budget_id, granted, now_ms)))
    return granted


def save_slices(run: Run, changes: Sequence[Change]) -> Operation:
    """Return the write that moves amounts from leased to spent, and gives others back, for many budgets at once.

    It fails as a whole if a slice is not open or holds less than is moved.
    """
    moved: list[tuple[Statement, Row]] = []
    # In one order everywhere: two processes that lock the same budgets must not wait for each other.
    for change in sorted(changes, key=lambda change: change.budget_id):
        checked_nano(change.spent_nano, "spent_nano")
        checked_nano(change.returned_nano, "returned_nano")
        amounts = (change.spent_nano, change.returned_nano)
        moved.append((_MOVE_BUDGET, (change.budget_id, *amounts)))
        moved.append((_MOVE_SLICE, (run.run_id, change.budget_id, *amounts)))
    return Operation(tuple(moved))


async def close_slices(database: Database, run: Run) -> None:
    """Close the run's slices that hold nothing more; one that does stays open, for `recover` to find."""
    settled = (slices.c.run_id == run.run_id, slices.c.state == "open", slices.c.amount_nano == slices.c.spent_nano)
    async with database.begin() as connection:
        await connection.execute(update(slices).where(*settled).values(state="closed"))


async def recover(database: Database, process: str) -> list[Slice]:
    """Mark what a process of this name left open as crashed; return all its crashed slices, the oldest first.

    Called once at the start, before the first lease, under the process's claim (`claims.claim_process`).
    """
    mine = (slices.c.process == process, slices.c.state != "closed")
    async with database.begin() as connection:
        await connection.execute(update(slices).where(*mine).values(state="crashed"))
        rows = await connection.execute(select(slices).where(*mine).order_by(slices.c.opened_ms))
        return [Slice(*row) for row in rows]


async def reconcile(database: Database, crashed: Slice, *, actual_nano: int) -> None:
    """Close a crashed slice at what was really spent of it; the rest is free again.

    Called when every order of that run is settled or past its deadline (`calls.spent_in_run` tells the sum).

    Raises:
        Fault: the slice is not crashed any more, or `actual_nano` is not between what it had settled and its amount.
    """
    async with database.begin() as connection:
        await _lock_budget(connection, crashed.budget_id)
        held = await _load_slice(connection, crashed.run_id, crashed.budget_id)
        if held is None or held.state != "crashed":
            raise Fault(f"the slice of {crashed.budget_id} is {held.state if held else 'gone'}, not crashed")
        if not held.spent_nano <= actual_nano <= held.amount_nano:
            raise Fault(
                f"the slice of {held.budget_id} can't have spent {actual_nano} nano: it had settled "
                f"{held.spent_nano} of {held.amount_nano}"
            )
        await connection.execute(
            update(slices)
            .where(slices.c.run_id == held.run_id, slices.c.budget_id == held.budget_id)
            .values(state="closed", spent_nano=actual_nano, amount_nano=actual_nano)
        )
        await _must_change(
            connection,
            update(budgets)
            .where(budgets.c.budget_id == held.budget_id)
            .values(
                spent_nano=budgets.c.spent_nano + (actual_nano - held.spent_nano),
                leased_nano=budgets.c.leased_nano - (held.amount_nano - held.spent_nano),
            ),
            f"budget {held.budget_id} vanished",
        )


async def charge(database: Database, budget_id: str, *, spent_nano: int, is_capped: bool = False) -> int:
    """Count an amount as spent of an old order that is honoured after its slice was reconciled; return what was.

    Args:
        is_capped: count no more than what is unleased, so that the limit holds; else all, whatever the limit.

    Raises:
        NotFound: no such budget.
    """
    checked_nano(spent_nano)
    async with database.begin() as connection:
        budget = await _lock_budget(connection, budget_id)
        if budget is None:
            raise NotFound(f"there is no budget {budget_id!r} to charge")
        room_nano = budget.unleased_nano
        counted = spent_nano if room_nano is None or not is_capped else min(spent_nano, room_nano)
        await _must_change(
            connection,
            update(budgets).where(budgets.c.budget_id == budget_id).values(spent_nano=budgets.c.spent_nano + counted),
            f"budget {budget_id} vanished",
        )
    return counted


def _grant(unleased_nano: int | None, want_nano: int, least_nano: int) -> int:
    checked_nano(want_nano, "want_nano")
    if least_nano < 1:
        raise ValueError(f"a lease needs at least 1 nano, not {least_nano}")
    if unleased_nano is None:
        return max(want_nano, least_nano)
    if unleased_nano < least_nano:
        return 0
    return max(least_nano, min(want_nano, unleased_nano // _SHARE))


def _new_slice(run: Run, budget_id: str, amount_nano: int, now_ms: int) -> dict[str, Any]:
    names = (column.name for column in slices.c)
    values = (run.run_id, budget_id, run.process, amount_nano, 0, "open", now_ms)
    return dict(zip(names, values, strict=True))


async def _lock_budget(connection: AsyncConnection, budget_id: str) -> Budget | None:
    # FOR UPDATE on PostgreSQL; SQLite leaves it out, its BEGIN IMMEDIATE locks the whole file.
    query = select(budgets).where(budgets.c.budget_id == budget_id).with_for_update()
    row = (await connection.execute(query)).first()
    return None if row is None else Budget(*row)


async def _load_slice(connection: AsyncConnection, run_id: bytes, budget_id: str) -> Slice | None:
    query = select(slices).where(slices.c.run_id == run_id, slices.c.budget_id == budget_id)
    row = (await connection.execute(query)).first()
    return None if row is None else Slice(*row)


async def _must_change(connection: AsyncConnection, statement: Update, otherwise: str) -> None:
    if (await connection.execute(statement)).rowcount != 1:
        raise Fault(otherwise)
