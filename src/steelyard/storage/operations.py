"""Writes as values: what a repository hands to the group writer instead of performing it.

1. An operation is one or more steps that happen together or not at all.
2. A step with `must_change` that changes no row fails its operation: that is how "totals only go up" is a failed
   write, not an `if`.
3. Within one group statements run by rank (inserts first), the rows of one statement in the order of submission; a
   group that fails that way is repeated one operation at a time, all in the order of submission.

Law: docs/spec/storage.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Delete, Insert, Table, Update, insert
from sqlalchemy.engine import Dialect

Row = tuple[Any, ...]


class NothingChanged(ValueError):
    """A step that had to change one row changed none; a backend refuses its operation with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One parameterised write.

    Args:
        name: shown when it fails, e.g. `insert calls`.
        construct: SQLAlchemy Core, with one bind parameter per name in `columns`; constants as `literal_column`.
        columns: the parameters' names, in the order in which rows give their values.
        must_change: every row given must change exactly one row of the database.
        rank: lower ones run first within a group; inserts are 0.
    """

    name: str
    construct: Insert | Update | Delete
    columns: tuple[str, ...]
    must_change: bool = True
    rank: int = 1


class Operation(msgspec.Struct, frozen=True):
    """Steps that are written together or not at all; each a statement and its row."""

    steps: tuple[tuple[Statement, Row], ...]

    @property
    def name(self) -> str:
        """Return the names of its statements, for messages."""
        return " + ".join(statement.name for statement, _ in self.steps) or "flush"


def insert_into(table: Table) -> Statement:
    """Return the statement that inserts whole rows, given in the order of the table's columns."""
    return Statement(f"insert {table.name}", insert(table), tuple(table.columns.keys()), rank=0)


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """SQL text for one driver, and where each of its parameters stands in a row (None: in the same order)."""

    sql: str
    positions: tuple[int, ...] | None

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Return the rows in the order in which the SQL wants its parameters."""
        if self.positions is None:
            return rows
        return [tuple(row[position] for position in self.positions) for row in rows]


def compile_statement(statement: Statement, dialect: Dialect, suffix: str = "") -> CompiledStatement:
    """Return a statement as SQL for a positional dialect; `suffix` is appended as it is."""
    compiled = statement.construct.compile(dialect=dialect, column_keys=statement.columns)
    wanted = tuple(compiled.positiontup or ())
    if set(wanted) != set(statement.columns):
        raise ValueError(f"{statement.name}: the SQL wants {wanted}, the rows give {statement.columns}")
    positions = None if wanted == statement.columns else tuple(statement.columns.index(name) for name in wanted)
    return CompiledStatement(str(compiled) + suffix, positions)


def group_steps(operations: list[Operation]) -> list[tuple[Statement, list[Row]]]:
    """Return the steps of many operations as one list of rows per statement, in the order of rank."""
    groups: dict[Statement, list[Row]] = {}
    for operation in operations:
        for statement, row in operation.steps:
            rows = groups.get(statement)
            if rows is None:
                rows = groups[statement] = []
            rows.append(row)
    return sorted(groups.items(), key=lambda group: group[0].rank)
