"""Rows that the hot path writes go to the end of their tables and indexes, instead of to random pages.

1. An order's key begins with its call id, which a gateway's clock leads; the order's hash still decides (storage.md,
   section 6). A receipt's hash needs no index of its own: it commits to the order and the part, which are the key.
2. A call is not written twice: where its lane stood says which batch to look into.
"""

from __future__ import annotations

_NANO = "BIGINT NOT NULL DEFAULT 0 CHECK (cost_nano BETWEEN 0 AND 9223372036854775807)"

STATEMENTS: tuple[str, ...] = (
    # ---- gateway
    "DROP INDEX calls_by_id",
    "DROP INDEX calls_by_time",
    "DROP INDEX calls_unplaced",
    "ALTER TABLE calls RENAME TO calls_before",
    f"""CREATE TABLE calls (
        order_hash {{blob}} NOT NULL,
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
        cost_nano {_NANO},
        created_ms BIGINT NOT NULL,
        finished_ms BIGINT NOT NULL,
        after_seq BIGINT NOT NULL,
        PRIMARY KEY (call_id, order_hash)
    )""",
    # A call that no batch holds yet comes with a later one than its lane's last.
    """INSERT INTO calls
        SELECT order_hash, call_id, key_id, run_id, provider, service_id, lane_key, order_bytes, salt, status,
            receipt_hash, receipt_bytes, cost_nano, created_ms, finished_ms,
            COALESCE(batch_seq - 1, (SELECT seq FROM lanes WHERE lanes.lane_key = calls_before.lane_key), 0)
        FROM calls_before ORDER BY created_ms""",
    "DROP TABLE calls_before",
    "CREATE INDEX calls_by_time ON calls (created_ms)",
    # ---- node
    "ALTER TABLE node_receipts RENAME TO node_receipts_before",
    f"""CREATE TABLE node_receipts (
        call_id {{blob}} NOT NULL,
        order_hash {{blob}} NOT NULL,
        part BIGINT NOT NULL,
        receipt_hash {{blob}} NOT NULL,
        order_bytes {{blob}} NOT NULL,
        tag {{blob}} NOT NULL,
        receipt_bytes {{blob}} NOT NULL,
        cost_nano {_NANO},
        lane_key {{blob}} NOT NULL,
        batch_seq BIGINT NOT NULL,
        leaf_index BIGINT NOT NULL,
        PRIMARY KEY (call_id, order_hash, part),
        UNIQUE (lane_key, batch_seq, leaf_index)
    )""",
    # An order is a msgpack array of 13 fields (1 byte), of which the call id is the first: 2 bytes, then its 16.
    """INSERT INTO node_receipts
        SELECT substr(order_bytes, 4, 16), order_hash, part, receipt_hash, order_bytes, tag, receipt_bytes, cost_nano,
            lane_key, batch_seq, leaf_index
        FROM node_receipts_before ORDER BY lane_key, batch_seq, leaf_index""",
    "DROP TABLE node_receipts_before",
)
