"""What the processes hold while they run: resident memory and open files, by life; and signed totals, which never fall.

1. A life is one process id. Memory is judged from its second minute on, and only in lives long enough for it.
2. The gateway's database is read beside it, as any reader may.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.cli.local_network import Network

WARM_S = 120.0
SPAN_S = 20.0
"""A life's memory: the median of so many seconds after `WARM_S`, beside that of its last ones."""


SLACK = 2
CHAIN_SLACK = 10
"""Tasks and sockets that an idle process may hold beyond what it held before: connections that are kept for reuse for
some seconds. The chain is at the other end of everybody's.
"""


@dataclass(slots=True)
class Life:
    """One process from its start to its end."""

    name: str
    pid: int
    begun_s: float
    samples: list[tuple[float, int]] = field(default_factory=list)

    def growth(self) -> tuple[float, float, float] | None:
        """Return (share grown, MiB after the second minute, MiB at the end), or None for a life too short."""
        early = [kib for at_s, kib in self.samples if WARM_S <= at_s < WARM_S + SPAN_S]
        last_s = self.samples[-1][0] if self.samples else 0.0
        late = [kib for at_s, kib in self.samples if at_s > last_s - SPAN_S]
        if not early or last_s < WARM_S + 2 * SPAN_S:
            return None
        before, after = statistics.median(early), statistics.median(late)
        return after / before - 1, before / 1024, after / 1024


class Watch:
    """Samples every process each second, and the gateway's lanes."""

    def __init__(self, network: Network) -> None:
        self.lives: list[Life] = []
        self.falls: list[str] = []
        self.overdrawn: list[str] = []
        self._network = network
        self._signed: dict[bytes, int] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self._sample_memory()
            await asyncio.to_thread(self._look_at_totals)
            await asyncio.sleep(1.0)

    def _sample_memory(self) -> None:
        now_s = time.monotonic()
        for child in list(self._network.processes.children.values()):
            if not child.is_running or not child.ready:
                continue
            life = next((life for life in self.lives if life.pid == child.pid), None)
            if life is None:
                life = Life(child.name, child.pid, now_s)
                self.lives.append(life)
            if (kib := resident_kib(child.pid)) is not None:
                life.samples.append((now_s - life.begun_s, kib))

    def _look_at_totals(self) -> None:
        for lane_key, signed in read_rows(self._network, "SELECT lane_key, signed_cumulative_nano FROM lanes"):
            if signed < self._signed.get(lane_key, 0):
                self.falls.append(f"{lane_key.hex()[:12]}: {self._signed[lane_key]} to {signed}")
            self._signed[lane_key] = signed
        query = (
            "SELECT k.name, b.spent_nano, b.leased_nano, b.limit_nano FROM api_keys k JOIN budgets b USING (budget_id) "
            "WHERE b.limit_nano IS NOT NULL AND b.spent_nano + b.leased_nano > b.limit_nano"
        )
        for name, spent, leased, limit in read_rows(self._network, query):
            self.overdrawn.append(f"{name}: {spent} spent and {leased} leased of {limit}")


def read_rows(network: Network, query: str, file: str = "gateway.db") -> list[Any]:
    """Return the rows of a query on one of the network's SQLite files."""
    with closing(sqlite3.connect(f"file:{network.plan.home / file}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def resident_kib(pid: int) -> int | None:
    """Return a process's resident memory, or None if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def count_sockets(pid: int) -> int:
    """Return how many sockets a process holds."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += os.readlink(link).startswith("socket:")
        except OSError:
            continue
    return count


async def count_held_at_rest(network: Network, before: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return the same once it came down to what it was, or what it still is after half a minute without load."""
    for _ in range(6):
        held = await count_held(network)
        if not list_leaks("sockets", before, held) and not list_leaks("tasks", before, held):
            break
        await asyncio.sleep(5.0)
    return held


def list_leaks(what: str, before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> list[str]:
    """Return the processes that hold more tasks or sockets than before, in words."""
    return [
        f"{name}: {held[what]} before, {after.get(name, {}).get(what, 'none told')} after"
        for name, held in before.items()
        if after.get(name, {}).get(what, 10**6) > held[what] + (CHAIN_SLACK if name == "chain" else SLACK)
    ]


async def count_held(network: Network) -> dict[str, dict[str, int]]:
    """Return the tasks, threads, files and sockets of each process, by its name: it tells them itself, on SIGUSR1."""
    held = {}
    for name, child in network.processes.children.items():
        size = child.log.stat().st_size
        os.kill(child.pid, signal.SIGUSR1)
        for _ in range(50):
            await asyncio.sleep(0.1)
            with child.log.open() as log:
                log.seek(size)
                lines = [line for line in log if '"process_counted"' in line and line.endswith("\n")]
            if lines:
                told = json.loads(lines[-1])
                held[name] = {what: told[what] for what in ("tasks", "threads", "files")}
                held[name]["sockets"] = count_sockets(child.pid)
                break
    return held
