"""The tables as SQLAlchemy sees them: for queries only, the migrations create them.

1. Addresses (20 bytes), hashes (32), signatures (65) and ids are BLOB; hex is for the edges of the program.
2. Amounts are nano in BIGINT: 2^63-1 nano is 9.2 thousand million YARD. `amounts.checked_nano` refuses more.
3. A uint64 that a peer chooses (`lane_id`) is 8 bytes, big-endian. Times are milliseconds since 1970.
4. Columns stand in the order of the migration, and row structs (`calls.CallRow` …) list their fields in the same order.

Law: docs/spec/storage.md, section 2.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table, Text

METADATA = MetaData()

_TYPES = {"blob": LargeBinary, "text": Text, "int": BigInteger}


def _table(name: str, columns: str) -> Table:
    pairs = (column.split() for column in columns.split(","))
    return Table(name, METADATA, *(Column(column, _TYPES[kind]) for column, kind in pairs))


_LANE = "lane_key blob, gateway blob, provider blob, service_id blob, lane_id blob"
_BATCH = """lane_key blob, seq int, prev_head blob, head blob, receipts_root blob, count int, total_count int,
    cumulative_nano int, signature blob, leaves blob, created_ms int"""
_VOUCHER = "lane_key blob, count int, cumulative_nano int, head blob, signature blob, created_ms int"

# ---- gateway
budgets = _table("budgets", "budget_id text, limit_nano int, spent_nano int, leased_nano int, created_ms int")
slices = _table(
    "slices",
    "run_id blob, budget_id text, process text, amount_nano int, spent_nano int, state text, opened_ms int",
)
api_keys = _table(
    "api_keys",
    """key_id text, name text, secret_hash blob, prefix text, budget_id text, requests_per_minute int, expires_ms int,
    revoked_ms int, created_ms int""",
)
lanes = _table(
    "lanes",
    f"""{_LANE}, process text, seq int, head blob, batched_cumulative_nano int, batched_count int,
    signed_cumulative_nano int, signed_count int, signed_head blob, opened_ms int""",
)
batches = _table("batches", _BATCH)
batch_calls = _table("batch_calls", "lane_key blob, seq int, call_ids blob, feed_no int")
vouchers = _table("vouchers", _VOUCHER)
calls = _table(
    "calls",
    """order_hash blob, call_id blob, key_id text, run_id blob, provider blob, service_id blob, lane_key blob,
    order_bytes blob, salt blob, status text, receipt_hash blob, receipt_bytes blob, cost_nano int, created_ms int,
    finished_ms int, after_seq int, why blob, charged_nano int""",
)
idempotency = _table(
    "idempotency",
    """key_id text, idem_key text, request_hash blob, process text, state text, response blob, created_ms int,
    expires_ms int""",
)
gateway_processes = _table("gateway_processes", "process text, gateway blob, link_url text, seen_ms int")
key_turns = _table("key_turns", "key_id text, micro_turns int, at_ms int")

# ---- node
node_lanes = _table(
    "node_lanes",
    f"""{_LANE}, seq int, head blob, cumulative_nano int, count int, voucher_cumulative_nano int, voucher_count int,
    voucher_head blob, redeemed_nano int, paid_nano int, opened_ms int""",
)
node_batches = _table("node_batches", _BATCH)
node_receipts = _table(
    "node_receipts",
    """call_id blob, order_hash blob, part int, receipt_hash blob, order_bytes blob, tag blob, receipt_bytes blob,
    cost_nano int, lane_key blob, batch_seq int, leaf_index int""",
)
node_vouchers = _table("node_vouchers", _VOUCHER)
node_evidence = _table("node_evidence", "receipt_hash blob, gateway blob, evidence blob, until_ms int")

# ---- validator
validator_feeds = _table("validator_feeds", "gateway blob, state blob")
validator_secrets = _table("validator_secrets", "epoch int, secret blob, is_committed int, is_revealed int")
validator_verdicts = _table(
    "validator_verdicts",
    """number int, receipt_hash blob, epoch int, provider blob, service_id blob, gateway blob, outcome int, reason text,
    selected_by text, micro_nats int, tokens int, evidence_hash blob, signature blob, material blob, created_ms int""",
)
validator_suspicions = _table("validator_suspicions", "provider blob, service_id blob, state blob")
validator_votes = _table("validator_votes", "case_id int, epoch int, vote int, salt blob")
validator_waiting = _table(
    "validator_waiting", "receipt_hash blob, epoch int, content blob, step int, due_s int, block int"
)
seen_batches = _table("seen_batches", "lane_key blob, seq int, content blob, leaves blob, seen_ms int")
seen_receipts = _table("seen_receipts", "order_hash blob, part int, lane_key blob, seq int, receipt blob, seen_ms int")

# ---- all
lies = _table("lies", "lie_id blob, kind int, liar blob, content blob, state int, due_ms int, tries int, found_ms int")
half_lies = _table("half_lies", "half_id blob, lane_key blob, content blob, found_ms int")

# ---- both
redemptions = _table(
    "redemptions",
    """tx_hash blob, log_index int, block int, lane_key blob, cumulative_nano int, paid_nano int, count int,
    head blob""",
)
events = _table("events", "at_ms int, peer text, code text, detail text")
cursors = _table("cursors", "name text, value text")

# ---- the database's own record of what was applied to it
migrations_applied = _table("schema_migrations", "number int, name text, checksum text, applied_ms int")
