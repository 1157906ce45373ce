"""Calls whose evidence was not served: a validator's checks that wait for it."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE validator_waiting (
        receipt_hash {blob} PRIMARY KEY,
        epoch BIGINT NOT NULL,
        content {blob} NOT NULL,
        step BIGINT NOT NULL,
        due_s BIGINT NOT NULL,
        block BIGINT NOT NULL
    )""",
)
