"""Writes as values."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, update
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine import Dialect

from steelyard.storage.operations import Operation, Statement, compile_statement, group_steps, insert_into
from steelyard.storage.schema import cursors, events

SET = Statement(
    "set cursors",
    update(cursors).where(cursors.c.name == bindparam("of")).values(value=bindparam("to")),
    ("of", "to"),
)
DIALECTS = [sqlite_dialect(paramstyle="qmark"), asyncpg_dialect()]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_row_is_arranged_as_the_sql_wants_it(dialect: Dialect) -> None:
    """Rows list their columns as the statement declares; the SQL's own order is found by name."""
    compiled = compile_statement(SET, dialect)
    (arranged,) = compiled.arrange([("name", "value")])
    assert compiled.sql.index("value") < compiled.sql.index("name")
    assert arranged == ("value", "name")
    assert compile_statement(insert_into(cursors), dialect).positions is None


def test_statement_whose_columns_differ_from_its_sql_is_refused() -> None:
    """A parameter that the rows don't give is found when the statement is compiled, not when data is wrong."""
    with pytest.raises(ValueError, match="set cursors"):
        compile_statement(Statement("set cursors", SET.construct, ("of", "other")), DIALECTS[0])


def test_steps_are_grouped_by_statement_in_order_of_rank() -> None:
    """Inserts of every operation come first, and each statement keeps the order of submission."""
    name, event = insert_into(cursors), insert_into(events)
    operations = [
        Operation(((SET, ("a", "1")), (name, ("b", "2")))),
        Operation(((event, (0, "", "", "")),)),
        Operation(((SET, ("b", "3")), (name, ("c", "4")))),
    ]
    grouped = [(statement.name, [row[0] for row in rows]) for statement, rows in group_steps(operations)]
    assert grouped == [("insert cursors", ["b", "c"]), ("insert events", [0]), ("set cursors", ["a", "b"])]
    assert operations[0].name == "set cursors + insert cursors"
