"""One gateway process or two behind one port: CPU time per 1,000 calls, on the same PostgreSQL.

`python bench/gateway/processes.py [--rounds 3] [--seconds 5] [--shared] [--json FILE]`

Each runs with receipts, budgets and vouchers on, before one node that serves `echo`; wrk has 32 connections for each
process, since fewer calls at once are fewer in a commit, a frame and a turn of the loop, with any number. CPU time
is the kernel's count of the gateway's own processes, without node, database and load. Rounds are interleaved, and the
median of their ratios counts: the cores are shared with everything else, so throughput says little here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from load import run_load
from run import BODY
from tests.databases import empty_database_url

from steelyard.cli.local_network import Network, NetworkPlan, open_network
from steelyard.cli.offerings import plan_echo

HERE = Path(__file__).parent
CONNECTIONS = 32
COUNTS = (1, 2)
LINKING_S = 20.0
MOST_RISE = 0.15


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time that processes have used, in user and kernel."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measure(network: Network, seconds: int, connections: int) -> dict[str, float]:
    """Return one load's throughput and CPU time per 1,000 calls."""
    ready = network.processes.children["gateway"].ready
    pids = ready.get("pids") or [ready["pid"]]
    url = network.base_url + "/chat/completions"
    before_s = [cpu_s([pid]) for pid in pids]
    load = await asyncio.to_thread(run_load, url, connections=connections, seconds=seconds, body=BODY, key=network.key)
    used_s = [cpu_s([pid]) - before for pid, before in zip(pids, before_s, strict=True)]
    calls = load.requests_per_s * seconds
    return {
        "requests_per_s": load.requests_per_s,
        "p50_ms": load.p50_ms,
        "cpu_s_per_1000": sum(used_s) / calls * 1000,
        "busiest_share": max(used_s) / sum(used_s),
    }


async def run(rounds: int, seconds: int, *, is_shared: bool) -> list[dict[str, Any]]:
    """Return every round's figures."""
    found = []
    async with AsyncExitStack() as stack:
        networks: dict[int, Network] = {}
        for count in COUNTS:
            database = await stack.enter_async_context(empty_database_url("postgresql"))
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="steelyard-bench-"))
            gateway: dict[str, Any] = {"database": database} | ({"processes": count} if count > 1 else {})
            node = {"credit_base_nano": 10**11}
            plan = NetworkPlan(
                home=Path(folder) / "home", services=[plan_echo()], providers=1, gateway=gateway, node=node
            )
            networks[count] = await stack.enter_async_context(
                open_network(plan, lambda step: print(step, file=sys.stderr))
            )
        await asyncio.sleep(LINKING_S)  # until the node has found every process
        for network in networks.values():
            await measure(network, 3, CONNECTIONS)  # warm up
        for number in range(rounds):
            for count, network in networks.items():
                await asyncio.sleep(1.5)
                figures = await measure(network, seconds, CONNECTIONS * (1 if is_shared else count))
                found.append({"round": number, "processes": count, **figures})
                print(f"round {number + 1}, {count} processes: {figures}", file=sys.stderr)
    return found


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="CPU time per 1,000 calls with one gateway process and with two.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--shared", action="store_true", help="32 connections for all processes together")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "processes.json")
    arguments = parser.parse_args()
    begun_s = time.monotonic()
    rounds = asyncio.run(run(arguments.rounds, arguments.seconds, is_shared=arguments.shared))
    by_count = {count: [row["cpu_s_per_1000"] for row in rounds if row["processes"] == count] for count in COUNTS}
    rise = statistics.median(two / one for one, two in zip(by_count[1], by_count[2], strict=True)) - 1
    result = {
        "cores": os.cpu_count(),
        "connections": CONNECTIONS,
        "is_shared": arguments.shared,
        "took_s": time.monotonic() - begun_s,
        "rounds": rounds,
        "rise": rise,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    for count in COUNTS:
        rate = statistics.median(row["requests_per_s"] for row in rounds if row["processes"] == count)
        cpu = statistics.median(by_count[count])
        print(f"{count} process{'es' if count > 1 else '  '}: {cpu:.3f} s of CPU per 1,000 calls, {rate:,.0f} calls/s")
    print(f"rise of CPU time per call: {rise:+.1%} (aim: at most {MOST_RISE:.0%})")


if __name__ == "__main__":
    main()
