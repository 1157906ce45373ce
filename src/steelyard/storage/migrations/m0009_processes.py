"""What gateway processes of one database tell each other: where their links are, and the turns of a rate limit."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE gateway_processes (
        process TEXT PRIMARY KEY,
        gateway {blob} NOT NULL,
        link_url TEXT NOT NULL,
        seen_ms BIGINT NOT NULL
    )""",
    """CREATE TABLE key_turns (
        key_id TEXT PRIMARY KEY,
        micro_turns BIGINT NOT NULL,
        at_ms BIGINT NOT NULL
    )""",
)
