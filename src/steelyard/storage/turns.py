"""Turns of a key's rate limit, leased by processes that share it: one bucket for each key, whatever the processes.

1. A bucket holds as many turns as the key has in a minute, is full at first and refills evenly; kept in millionths.
2. A process leases a few at once, so that not every call asks the database. What it doesn't use is lost to the key.

Law: docs/spec/storage.md, section 5.
"""

from __future__ import annotations

from sqlalchemy import select, text, update

from steelyard.storage.database import Database
from steelyard.storage.schema import key_turns as table

MICRO = 1_000_000


async def lease_turns(database: Database, key_id: str, *, per_minute: int, want: int, now_ms: int) -> tuple[int, float]:
    """Take up to `want` turns of a key; return how many, and if none, in how many seconds there is one.

    Args:
        per_minute: the key's limit, above zero. want: at least 1. now_ms: Unix milliseconds.
    """
    full = per_minute * MICRO
    async with database.begin() as connection:
        # Both databases know this form; a row that another process has just made is locked below.
        await connection.execute(
            text(
                "INSERT INTO key_turns (key_id, micro_turns, at_ms) VALUES (:key, :full, :now) ON CONFLICT DO NOTHING"
            ),
            {"key": key_id, "full": full, "now": now_ms},
        )
        row = (await connection.execute(select(table).where(table.c.key_id == key_id).with_for_update())).one()
        elapsed_ms = max(0, now_ms - row.at_ms)
        turns = min(full, row.micro_turns + elapsed_ms * full // 60_000)
        granted = min(want, turns // MICRO)
        left = turns - granted * MICRO
        changed = update(table).where(table.c.key_id == key_id)
        await connection.execute(changed.values(micro_turns=left, at_ms=max(now_ms, row.at_ms)))
    return granted, 0.0 if granted else (MICRO - left) * 60 / full
