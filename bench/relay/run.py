"""The relay beside nginx: one run, one machine, one load generator, the same node behind both.

`python bench/relay/run.py [--rounds 3] [--seconds 4]`

nginx (plain reverse proxy, one worker) and one provider of ours stand before the same JSON-RPC server on uvicorn; our
gateway (one process; receipts, budgets and vouchers on) before the provider. `balance` is an `eth_getBalance` of the
newest block, which nobody may keep; `block` an `eth_getBlockByHash`, which never changes and is answered from memory.
Rounds are interleaved; medians of the rounds' ratios are what counts. wrk runs on the same cores as everything else, so
read the ratios. Writes results/relay.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

import peers
from load import run_load

from steelyard.cli.genesis import ServicePlan
from steelyard.cli.local_network import NetworkPlan, open_network
from steelyard.protocol.messages import Grade
from steelyard.services.manifest import encode_manifest
from steelyard.services.rpc import RpcService

CHAIN = "anvil"
CONNECTIONS = (1, 32)
BODIES = {
    "balance": {"method": "eth_getBalance", "params": ["0x" + "11" * 20, "latest"]},
    "block": {"method": "eth_getBlockByHash", "params": ["0x" + "ab" * 32, False]},
}


def body_of(what: str) -> bytes:
    """Return the bytes of a request."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, **BODIES[what]}).encode()


def plan_relay(upstream: str) -> ServicePlan:
    """Return the relay of one chain, before a node."""
    manifest = RpcService.describe(CHAIN)
    return ServicePlan(
        name=CHAIN,
        kind="rpc",
        manifest=encode_manifest(manifest),
        grade=int(Grade.CONSENSUS),
        price_in=1_000,
        price_out=1_000,
        options={"upstream": upstream},
    )


def measure(targets: dict[str, tuple[str, str]], rounds: int, seconds: int) -> list[dict[str, Any]]:
    """Return every round's loads; each round takes the targets in turn, so that drift strikes all alike."""
    found = []
    for name, (url, key) in targets.items():  # warm up, and let what may be kept be kept
        for what in BODIES:
            run_load(url, connections=8, seconds=2, body=body_of(what), key=key)
        print(f"warm: {name}", file=sys.stderr)
    for number in range(rounds):
        for what in BODIES:
            for connections in CONNECTIONS:
                for name, (url, key) in targets.items():
                    load = run_load(url, connections=connections, seconds=seconds, body=body_of(what), key=key)
                    row = {"round": number, "what": what, "target": name, "connections": connections}
                    found.append({**row, **asdict(load)})
                    said = f"{load.requests_per_s:,.0f}/s, p95 {load.p95_ms:.2f} ms"
                    print(f"round {number + 1}/{rounds}: {what}, {name}, {connections}: {said}", file=sys.stderr)
    return found


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians, and the ratios to nginx taken round by round."""

    def values(what: str, target: str, connections: int, field: str) -> list[float]:
        wanted = (what, target, connections)
        return [row[field] for row in rounds if (row["what"], row["target"], row["connections"]) == wanted]

    def compare(what: str) -> dict[str, float]:
        pairs = zip(
            values(what, "steelyard", 32, "requests_per_s"), values(what, "nginx", 32, "requests_per_s"), strict=True
        )
        added = zip(values(what, "steelyard", 1, "p95_ms"), values(what, "node", 1, "p95_ms"), strict=True)
        return {
            "of_nginx_at_32": statistics.median(mine / theirs for mine, theirs in pairs),
            "p95_added_ms_at_1": statistics.median(mine - theirs for mine, theirs in added),
        }

    targets = list(dict.fromkeys(row["target"] for row in rounds))
    table = {
        what: {
            target: {
                f"{field}_at_{connections}": statistics.median(values(what, target, connections, field))
                for field in ("requests_per_s", "p50_ms", "p95_ms")
                for connections in CONNECTIONS
            }
            for target in targets
        }
        for what in BODIES
    }
    return {"medians": table, **{what: compare(what) for what in BODIES}}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start everyone, measure, and return the whole result."""
    with tempfile.TemporaryDirectory(prefix="steelyard-bench-") as folder, ExitStack() as stack:
        port = peers.free_port()
        command = [sys.executable, str(Path(__file__).with_name("node.py")), str(port)]
        stack.enter_context(peers.running(command, port, timeout_s=10))
        plan = NetworkPlan(home=Path(folder) / "home", services=[plan_relay(f"http://127.0.0.1:{port}")], providers=1)
        async with open_network(plan, lambda step: print(step, file=sys.stderr)) as network:
            base = network.base_url.removesuffix("/v1")
            targets = {
                "node": (f"http://127.0.0.1:{port}/", "none"),
                "nginx": (stack.enter_context(peers.nginx(Path(folder), port)) + "/", "none"),
                "steelyard": (f"{base}/rpc/{CHAIN}", network.key),
            }
            rounds = await asyncio.to_thread(measure, targets, arguments.rounds, arguments.seconds)
            metrics = await asyncio.to_thread(fetch_metrics, base)
    return {
        "versions": {"nginx": peers.nginx_version(), "python": platform.python_version()},
        "cores": os.cpu_count(),
        "rounds": rounds,
        "summary": summarise(rounds),
        "gateway_metrics": metrics,
    }


def fetch_metrics(base_url: str) -> dict[str, float]:
    """Return the gateway's own counts, to show that receipts and the cache were on."""
    with urllib.request.urlopen(base_url + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = ("steelyard_gateway_calls", "steelyard_gateway_batches", "steelyard_gateway_relay_cache")
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted)}


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table that the docs quote."""
    for what, table in summary["medians"].items():
        print(f"{what:10} {'req/s at 1':>11} {'req/s at 32':>12} {'p50 at 1':>10} {'p95 at 1':>10}")
        for name, row in table.items():
            print(
                f"{name:10} {row['requests_per_s_at_1']:>11,.0f} {row['requests_per_s_at_32']:>12,.0f} "
                f"{row['p50_ms_at_1']:>7.2f} ms {row['p95_ms_at_1']:>7.2f} ms"
            )
    balance, block = summary["balance"], summary["block"]
    print(f"\nbalance: of nginx's throughput at 32 connections: {balance['of_nginx_at_32']:.3f} (aim 0.3)")
    print(f"balance: p95 added at one connection:              {balance['p95_added_ms_at_1']:.2f} ms (aim 2)")
    print(f"block, from memory: of nginx's throughput at 32:   {block['of_nginx_at_32']:.3f} (aim 0.45)")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="The relay beside nginx.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    arguments = parser.parse_args()
    result = asyncio.run(run(arguments))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "relay.json").write_text(json.dumps(result, indent=1) + "\n")
    print_summary(result["summary"])


if __name__ == "__main__":
    main()
