"""Numbered migrations: one module each, frozen once released.

1. A migration is a tuple of SQL statements, the same for SQLite and PostgreSQL except for `{blob}` (BLOB, BYTEA).
2. Its text is hashed into the database; a text that changed after it was applied stops the start.
3. `storage/schema.py` describes the sum of them for queries; a test compares the two on both databases.

Law: docs/spec/storage.md, section 3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from steelyard.storage.migrations import (
    m0001_first,
    m0002_append,
    m0003_checks,
    m0004_validator,
    m0005_waiting,
    m0006_why,
    m0007_lies,
    m0008_charged,
    m0009_processes,
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `checksum` is the SHA-256 of its text before `{blob}` is filled in."""

    number: int
    name: str
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        """Return the hex digest that the database remembers."""
        return hashlib.sha256("\x00".join(self.statements).encode()).hexdigest()


MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "first", m0001_first.STATEMENTS),
    Migration(2, "append", m0002_append.STATEMENTS),
    Migration(3, "checks", m0003_checks.STATEMENTS),
    Migration(4, "validator", m0004_validator.STATEMENTS),
    Migration(5, "waiting", m0005_waiting.STATEMENTS),
    Migration(6, "why", m0006_why.STATEMENTS),
    Migration(7, "lies", m0007_lies.STATEMENTS),
    Migration(8, "charged", m0008_charged.STATEMENTS),
    Migration(9, "processes", m0009_processes.STATEMENTS),
)
