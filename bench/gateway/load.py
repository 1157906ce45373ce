"""One load generator for everyone: wrk, with the same body and key, against loopback alone."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk measured."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def run_load(url: str, *, connections: int, seconds: int, body: bytes, key: str) -> Load:
    """Return what wrk measured against a loopback URL; raises RuntimeError for any answer that is not a 200."""
    if not url.startswith("http://127.0.0.1:"):
        raise RuntimeError(f"load goes to loopback only, not to {url}")
    environment = os.environ | {"BENCH_BODY": body.decode(), "BENCH_KEY": key}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(SCRIPT), url]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    figures = json.loads(next(line[5:] for line in output.splitlines() if line.startswith("JSON ")))
    if figures["bad_status"] or figures["socket_errors"] or not figures["requests"]:
        raise RuntimeError(f"{url} answered wrongly: {figures}")
    return Load(
        requests_per_s=figures["requests"] / figures["seconds"],
        p50_ms=figures["p50_us"] / 1000,
        p95_ms=figures["p95_us"] / 1000,
        p99_ms=figures["p99_us"] / 1000,
    )
