"""What checks need: the evidence that a node keeps for a while, and a gateway's batches in the order of their arrival.

1. A batch's call ids are kept beside it, so that its calls' rows are found by their key; batches from before this
   migration are not in the feed.
2. `feed_no` is given when the feed is read, under a lock: a number that was read once never gets an older neighbour.
"""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = (
    # ---- node
    """CREATE TABLE node_evidence (
        receipt_hash {blob} PRIMARY KEY,
        gateway {blob} NOT NULL,
        evidence {blob} NOT NULL,
        until_ms BIGINT NOT NULL
    )""",
    "CREATE INDEX node_evidence_by_time ON node_evidence (until_ms)",
    # ---- gateway
    """CREATE TABLE batch_calls (
        lane_key {blob} NOT NULL,
        seq BIGINT NOT NULL,
        call_ids {blob} NOT NULL,
        feed_no BIGINT,
        PRIMARY KEY (lane_key, seq)
    )""",
    "CREATE UNIQUE INDEX batch_calls_by_feed ON batch_calls (feed_no)",
    "CREATE INDEX batch_calls_unfed ON batch_calls (lane_key, seq) WHERE feed_no IS NULL",
)
