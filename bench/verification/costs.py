"""What checking costs: aim 6. Replays and sampling are measured by overhead.py with the model; hashes here, without."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steelyard.engines.port import Candidates
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import MAX_BATCH_CALLS, LaneState, extend_lane
from steelyard.protocol.messages import Lane, Receipt, content_hash
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.chat.evidence import encode_claim, encode_row
from steelyard.verification.parameters import BILLION, SHIPPED

OVERHEAD = Path(__file__).parent / "results" / "overhead.json"
TOKENS = 64
ROUNDS = 300


def measure() -> dict[str, Any]:
    """Return microseconds of CPU for one answer's evidence and receipt, and the evidence's bytes a token."""
    candidates = Candidates(tuple(range(64)), tuple(-0.1 * index for index in range(64)))
    rows = encode_row(candidates, 3) * TOKENS
    claim = encode_claim(40, rows)
    receipt = Receipt(ZERO32, 0, content_hash(ZERO32, b"x" * 300), evidence_root(claim), 40, TOKENS, 100, 1, 2, 1)
    key, gateway = SigningKey(b"\x02" * 32), SigningKey(b"\x01" * 32)
    lane = LaneState(lane=Lane(gateway.account, key.account, ZERO32, 1))
    domain, ids = Domain(31415, b"\x05" * 32), [receipt.struct_hash()] * MAX_BATCH_CALLS
    work: dict[str, Callable[[], Any]] = {
        "row_us": lambda: encode_row(candidates, 3),
        "root_us": lambda: evidence_root(claim),
        "receipt_us": lambda: (receipt.struct_hash(), content_hash(ZERO32, b"x" * 300)),
        "batch_us": lambda: extend_lane(lane, ids, [100] * MAX_BATCH_CALLS, key, domain),
        "batch_of_one_us": lambda: extend_lane(lane, ids[:1], [100], key, domain),
    }
    found: dict[str, Any] = {name: round(_best_us(way), 1) for name, way in work.items()}
    found["evidence_bytes_a_token"] = round(len(claim) / TOKENS, 2)
    found["answer_us"] = round(
        TOKENS * found["row_us"] + found["root_us"] + found["receipt_us"] + found["batch_of_one_us"], 1
    )
    return found


def _best_us(way: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(ROUNDS):
            way()
        best = min(best, (time.process_time() - started) / ROUNDS)
    return best * 1e6


def shares() -> dict[str, Any]:
    """Return what checks take of all compute and receipts of generation; without the latter's figures where overhead.py
    has not run.
    """
    found: dict[str, Any] = {"own": measure()}
    if not OVERHEAD.exists():
        return found
    overhead = json.loads(OVERHEAD.read_text())
    rate = SHIPPED.rate_ppb / BILLION
    replays = [
        (name.removesuffix("_share"), row[name])
        for row in overhead["replay"]
        for name in row
        if name.endswith("_share")
    ]
    dearest = max(share for _, share in replays)
    single = next(row for row in overhead["sampler"] if row["slots"] == 1)
    generation_us = single["engine_ms_a_token"] * 1000 * TOKENS
    return found | {
        "dearest_replay_of_generation": dearest,
        "checks_of_compute": round(rate * dearest / (1 + rate * dearest), 6),
        "receipts_and_evidence_of_generation": round(found["own"]["answer_us"] / generation_us, 5),
        "own_sampler_of_generation": {str(row["slots"]): row["overhead"] for row in overhead["sampler"]},
    }
