"""The first schema: budgets, keys, the gateway's lanes and calls, the node's ledger, and what both share."""

from __future__ import annotations

_NANO = "BIGINT NOT NULL DEFAULT 0 CHECK ({0} BETWEEN 0 AND 9223372036854775807)"


def _nano(column: str) -> str:
    # The CHECK also refuses the REAL into which SQLite would turn a sum beyond 64 bits.
    return f"{column} {_NANO.format(column)}"


STATEMENTS: tuple[str, ...] = (
    # ---- gateway: budgets and keys
    f"""CREATE TABLE budgets (
        budget_id TEXT PRIMARY KEY,
        limit_nano BIGINT CHECK (limit_nano >= 0),
        {_nano("spent_nano")},
        {_nano("leased_nano")},
        created_ms BIGINT NOT NULL
    )""",
    f"""CREATE TABLE slices (
        run_id {{blob}} NOT NULL,
        budget_id TEXT NOT NULL REFERENCES budgets (budget_id),
        process TEXT NOT NULL,
        {_nano("amount_nano")},
        {_nano("spent_nano")},
        state TEXT NOT NULL CHECK (state IN ('open', 'closed', 'crashed')),
        opened_ms BIGINT NOT NULL,
        PRIMARY KEY (run_id, budget_id),
        CHECK (spent_nano <= amount_nano)
    )""",
    "CREATE INDEX slices_by_process ON slices (process) WHERE state <> 'closed'",
    """CREATE TABLE api_keys (
        key_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        secret_hash {blob} NOT NULL UNIQUE,
        prefix TEXT NOT NULL,
        budget_id TEXT NOT NULL REFERENCES budgets (budget_id),
        requests_per_minute BIGINT CHECK (requests_per_minute > 0),
        expires_ms BIGINT,
        revoked_ms BIGINT,
        created_ms BIGINT NOT NULL
    )""",
    # ---- gateway: lanes, batches, vouchers, calls
    f"""CREATE TABLE lanes (
        lane_key {{blob}} PRIMARY KEY,
        gateway {{blob}} NOT NULL,
        provider {{blob}} NOT NULL,
        service_id {{blob}} NOT NULL,
        lane_id {{blob}} NOT NULL,
        process TEXT NOT NULL,
        seq BIGINT NOT NULL DEFAULT 0,
        head {{blob}} NOT NULL,
        {_nano("batched_cumulative_nano")},
        batched_count BIGINT NOT NULL DEFAULT 0,
        {_nano("signed_cumulative_nano")},
        signed_count BIGINT NOT NULL DEFAULT 0,
        signed_head {{blob}} NOT NULL,
        opened_ms BIGINT NOT NULL,
        UNIQUE (gateway, provider, service_id, lane_id),
        CHECK (signed_cumulative_nano <= batched_cumulative_nano),
        CHECK (signed_count <= batched_count)
    )""",
    "CREATE INDEX lanes_by_process ON lanes (process)",
    f"""CREATE TABLE batches (
        lane_key {{blob}} NOT NULL,
        seq BIGINT NOT NULL,
        prev_head {{blob}} NOT NULL,
        head {{blob}} NOT NULL UNIQUE,
        receipts_root {{blob}} NOT NULL,
        count BIGINT NOT NULL,
        total_count BIGINT NOT NULL,
        {_nano("cumulative_nano")},
        signature {{blob}} NOT NULL,
        leaves {{blob}} NOT NULL,
        created_ms BIGINT NOT NULL,
        PRIMARY KEY (lane_key, seq)
    )""",
    f"""CREATE TABLE vouchers (
        lane_key {{blob}} NOT NULL,
        count BIGINT NOT NULL,
        {_nano("cumulative_nano")},
        head {{blob}} NOT NULL,
        signature {{blob}} NOT NULL,
        created_ms BIGINT NOT NULL,
        PRIMARY KEY (lane_key, count)
    )""",
    f"""CREATE TABLE calls (
        order_hash {{blob}} PRIMARY KEY,
        call_id {{blob}} NOT NULL,
        key_id TEXT,
        run_id {{blob}},
        provider {{blob}} NOT NULL,
        service_id {{blob}} NOT NULL,
        lane_key {{blob}} NOT NULL,
        order_bytes {{blob}} NOT NULL,
        salt {{blob}},
        status TEXT NOT NULL,
        receipt_hash {{blob}},
        receipt_bytes {{blob}},
        {_nano("cost_nano")},
        created_ms BIGINT NOT NULL,
        finished_ms BIGINT NOT NULL,
        batch_seq BIGINT,
        leaf_index BIGINT
    )""",
    "CREATE INDEX calls_by_id ON calls (call_id)",
    "CREATE INDEX calls_by_time ON calls (created_ms)",
    "CREATE INDEX calls_unplaced ON calls (lane_key) WHERE batch_seq IS NULL AND receipt_hash IS NOT NULL",
    """CREATE TABLE idempotency (
        key_id TEXT NOT NULL,
        idem_key TEXT NOT NULL,
        request_hash {blob} NOT NULL,
        process TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('running', 'done')),
        response {blob},
        created_ms BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL,
        PRIMARY KEY (key_id, idem_key)
    )""",
    "CREATE INDEX idempotency_by_expiry ON idempotency (expires_ms)",
    # ---- node
    f"""CREATE TABLE node_lanes (
        lane_key {{blob}} PRIMARY KEY,
        gateway {{blob}} NOT NULL,
        provider {{blob}} NOT NULL,
        service_id {{blob}} NOT NULL,
        lane_id {{blob}} NOT NULL,
        seq BIGINT NOT NULL DEFAULT 0,
        head {{blob}} NOT NULL,
        {_nano("cumulative_nano")},
        count BIGINT NOT NULL DEFAULT 0,
        {_nano("voucher_cumulative_nano")},
        voucher_count BIGINT NOT NULL DEFAULT 0,
        voucher_head {{blob}} NOT NULL,
        {_nano("redeemed_nano")},
        {_nano("paid_nano")},
        opened_ms BIGINT NOT NULL,
        UNIQUE (gateway, provider, service_id, lane_id),
        CHECK (voucher_cumulative_nano <= cumulative_nano),
        CHECK (voucher_count <= count)
    )""",
    f"""CREATE TABLE node_batches (
        lane_key {{blob}} NOT NULL,
        seq BIGINT NOT NULL,
        prev_head {{blob}} NOT NULL,
        head {{blob}} NOT NULL UNIQUE,
        receipts_root {{blob}} NOT NULL,
        count BIGINT NOT NULL,
        total_count BIGINT NOT NULL,
        {_nano("cumulative_nano")},
        signature {{blob}} NOT NULL,
        leaves {{blob}} NOT NULL,
        created_ms BIGINT NOT NULL,
        PRIMARY KEY (lane_key, seq)
    )""",
    f"""CREATE TABLE node_receipts (
        order_hash {{blob}} NOT NULL,
        part BIGINT NOT NULL,
        receipt_hash {{blob}} NOT NULL UNIQUE,
        order_bytes {{blob}} NOT NULL,
        tag {{blob}} NOT NULL,
        receipt_bytes {{blob}} NOT NULL,
        {_nano("cost_nano")},
        lane_key {{blob}} NOT NULL,
        batch_seq BIGINT NOT NULL,
        leaf_index BIGINT NOT NULL,
        PRIMARY KEY (order_hash, part),
        UNIQUE (lane_key, batch_seq, leaf_index)
    )""",
    f"""CREATE TABLE node_vouchers (
        lane_key {{blob}} NOT NULL,
        count BIGINT NOT NULL,
        {_nano("cumulative_nano")},
        head {{blob}} NOT NULL,
        signature {{blob}} NOT NULL,
        created_ms BIGINT NOT NULL,
        PRIMARY KEY (lane_key, count)
    )""",
    # ---- both
    f"""CREATE TABLE redemptions (
        tx_hash {{blob}} NOT NULL,
        log_index BIGINT NOT NULL,
        block BIGINT NOT NULL,
        lane_key {{blob}} NOT NULL,
        {_nano("cumulative_nano")},
        {_nano("paid_nano")},
        count BIGINT NOT NULL,
        head {{blob}} NOT NULL,
        PRIMARY KEY (tx_hash, log_index)
    )""",
    "CREATE INDEX redemptions_by_lane ON redemptions (lane_key)",
    "CREATE INDEX redemptions_by_block ON redemptions (block)",
    """CREATE TABLE events (
        at_ms BIGINT NOT NULL,
        peer TEXT NOT NULL,
        code TEXT NOT NULL,
        detail TEXT NOT NULL
    )""",
    "CREATE INDEX events_by_time ON events (at_ms)",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
