"""What a validator remembers: how far it read, its secrets, its verdicts in order, and its suspicions."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    """CREATE TABLE validator_feeds (
        gateway {blob} PRIMARY KEY,
        state {blob} NOT NULL
    )""",
    """CREATE TABLE validator_secrets (
        epoch BIGINT PRIMARY KEY,
        secret {blob} NOT NULL,
        is_committed BIGINT NOT NULL DEFAULT 0,
        is_revealed BIGINT NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE validator_verdicts (
        number BIGINT PRIMARY KEY,
        receipt_hash {blob} NOT NULL UNIQUE,
        epoch BIGINT NOT NULL,
        provider {blob} NOT NULL,
        service_id {blob} NOT NULL,
        gateway {blob} NOT NULL,
        outcome BIGINT NOT NULL,
        reason TEXT NOT NULL,
        selected_by TEXT NOT NULL,
        micro_nats BIGINT NOT NULL,
        tokens BIGINT NOT NULL,
        evidence_hash {blob} NOT NULL,
        signature {blob} NOT NULL,
        material {blob},
        created_ms BIGINT NOT NULL
    )""",
    "CREATE INDEX validator_verdicts_by_epoch ON validator_verdicts (epoch)",
    """CREATE TABLE validator_suspicions (
        provider {blob} NOT NULL,
        service_id {blob} NOT NULL,
        state {blob} NOT NULL,
        PRIMARY KEY (provider, service_id)
    )""",
    """CREATE TABLE validator_votes (
        case_id BIGINT NOT NULL,
        epoch BIGINT NOT NULL,
        vote BIGINT NOT NULL,
        salt {blob} NOT NULL,
        PRIMARY KEY (case_id, epoch)
    )""",
)
