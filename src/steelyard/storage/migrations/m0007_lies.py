"""Lies: both signed halves of each, and halves that only look like one; and what a validator has seen signed."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    # ---- all
    """CREATE TABLE lies (
        lie_id {blob} PRIMARY KEY,
        kind BIGINT NOT NULL,
        liar {blob} NOT NULL,
        content {blob} NOT NULL,
        state BIGINT NOT NULL,
        due_ms BIGINT NOT NULL,
        tries BIGINT NOT NULL,
        found_ms BIGINT NOT NULL
    )""",
    "CREATE INDEX lies_waiting ON lies (due_ms) WHERE state = 0",
    """CREATE TABLE half_lies (
        half_id {blob} PRIMARY KEY,
        lane_key {blob} NOT NULL,
        content {blob} NOT NULL,
        found_ms BIGINT NOT NULL
    )""",
    "CREATE INDEX half_lies_by_lane ON half_lies (lane_key)",
    # ---- validator
    """CREATE TABLE seen_batches (
        lane_key {blob} NOT NULL,
        seq BIGINT NOT NULL,
        content {blob} NOT NULL,
        leaves {blob} NOT NULL,
        seen_ms BIGINT NOT NULL,
        PRIMARY KEY (lane_key, seq)
    )""",
    "CREATE INDEX seen_batches_by_time ON seen_batches (seen_ms)",
    """CREATE TABLE seen_receipts (
        order_hash {blob} NOT NULL,
        part BIGINT NOT NULL,
        lane_key {blob} NOT NULL,
        seq BIGINT NOT NULL,
        receipt {blob} NOT NULL,
        seen_ms BIGINT NOT NULL,
        PRIMARY KEY (order_hash, part)
    )""",
    "CREATE INDEX seen_receipts_by_time ON seen_receipts (seen_ms)",
)
