"""The gateway beside nginx and LiteLLM: one run, one machine, one load generator, the same answer bytes.

`python bench/gateway/run.py [--rounds 5] [--seconds 5] [--without-litellm]`

nginx (plain reverse proxy, one worker) and LiteLLM's proxy (one worker) stand before an HTTP server that answers the
bytes of one of our own answers: on uvicorn, as Python engines serve, and for nginx once more on a bare socket, which
does no work at all. Our gateway (one process; receipts, budgets and vouchers on) stands before one node that serves
`echo`, parses each request, answers and signs for it. Rounds are interleaved; medians of the rounds' ratios are what
counts. wrk runs on the same cores as everything else, so read the ratios. Writes results/gateway.json.
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

sys.path.insert(0, str(Path(__file__).parent))

import peers
import signing
from load import Load, run_load

from steelyard.cli.local_network import NetworkPlan, open_network
from steelyard.cli.offerings import plan_echo

KEY = "sk-bench-litellm"
BODY = json.dumps(
    {"model": "echo", "max_tokens": 256, "messages": [{"role": "user", "content": "What does a steelyard weigh? " * 3}]}
).encode()
CONNECTIONS = (1, 32)
BEFORE = {"nginx": "uvicorn", "litellm": "uvicorn"}
"""Which server each peer stands before; what it adds is counted from there, and from the bare socket for the others."""


def sample_answer(url: str, key: str) -> bytes:
    """Return the bytes of one of our answers, for the upstream to repeat."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, data=BODY, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def measure(targets: dict[str, tuple[str, str]], rounds: int, seconds: int) -> list[dict[str, Any]]:
    """Return every round's loads; each round takes the targets in turn, so that drift strikes all alike."""
    found = []
    for name, (url, key) in targets.items():  # warm up
        run_load(url, connections=8, seconds=3, body=BODY, key=key)
        print(f"warm: {name}", file=sys.stderr)
    for number in range(rounds):
        for connections in CONNECTIONS:
            for name, (url, key) in targets.items():
                load = run_load(url, connections=connections, seconds=seconds, body=BODY, key=key)
                found.append({"round": number, "target": name, "connections": connections, **asdict(load)})
                print(
                    f"round {number + 1}/{rounds}: {name}, {connections} connections: {describe(load)}", file=sys.stderr
                )
    return found


def describe(load: Load) -> str:
    """Return a load in a few words."""
    return f"{load.requests_per_s:,.0f}/s, p50 {load.p50_ms:.2f} ms"


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians, and the ratios to nginx and LiteLLM taken round by round."""

    def values(target: str, connections: int, field: str) -> list[float]:
        return [r[field] for r in rounds if r["target"] == target and r["connections"] == connections]

    def ratio(target: str, other: str, connections: int) -> float | None:
        pairs = zip(
            values(target, connections, "requests_per_s"), values(other, connections, "requests_per_s"), strict=True
        )
        found = [mine / theirs for mine, theirs in pairs]
        return statistics.median(found) if found else None

    targets = list(dict.fromkeys(r["target"] for r in rounds))
    table = {
        target: {
            "requests_per_s": {c: statistics.median(values(target, c, "requests_per_s")) for c in CONNECTIONS},
            "p50_ms": {c: statistics.median(values(target, c, "p50_ms")) for c in CONNECTIONS},
            "p99_ms": {c: statistics.median(values(target, c, "p99_ms")) for c in CONNECTIONS},
            "p50_added_ms_at_1": statistics.median(values(target, 1, "p50_ms"))
            - statistics.median(values(BEFORE.get(target, "bare"), 1, "p50_ms")),
        }
        for target in targets
    }
    has_litellm = "litellm" in targets
    return {
        "targets": table,
        "steelyard_of_nginx_at_32": ratio("steelyard", "nginx", 32),
        "steelyard_of_nginx_bare_at_32": ratio("steelyard", "nginx-bare", 32),
        "steelyard_of_litellm_at_32": ratio("steelyard", "litellm", 32) if has_litellm else None,
        "steelyard_p50_added_ms_at_1": table["steelyard"]["p50_added_ms_at_1"],
    }


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start everyone, measure, and return the whole result."""
    with tempfile.TemporaryDirectory(prefix="steelyard-bench-") as folder:
        plan = NetworkPlan(home=Path(folder) / "home", services=[plan_echo()], providers=1)
        async with open_network(plan, lambda step: print(step, file=sys.stderr)) as network:
            url = network.base_url + "/chat/completions"
            answer = await asyncio.to_thread(sample_answer, url, network.key)
            with ExitStack() as stack:
                port = stack.enter_context(peers.upstream(Path(folder), answer, "uvicorn"))
                bare = stack.enter_context(peers.upstream(Path(folder), answer, "bare"))
                path = "/v1/chat/completions"
                targets = {
                    "bare": (f"http://127.0.0.1:{bare}{path}", "none"),
                    "uvicorn": (f"http://127.0.0.1:{port}{path}", "none"),
                    "nginx": (stack.enter_context(peers.nginx(Path(folder), port)) + path, "none"),
                    "nginx-bare": (stack.enter_context(peers.nginx(Path(folder), bare)) + path, "none"),
                    "steelyard": (url, network.key),
                }
                versions = {"nginx": peers.nginx_version(), "python": platform.python_version()}
                if not arguments.without_litellm:
                    versions["litellm"] = await asyncio.to_thread(peers.install_litellm)
                    proxy = stack.enter_context(peers.litellm(Path(folder), port, KEY))
                    targets["litellm"] = (proxy + "/v1/chat/completions", KEY)
                rounds = await asyncio.to_thread(measure, targets, arguments.rounds, arguments.seconds)
            await asyncio.sleep(2)  # the last vouchers
            metrics = await asyncio.to_thread(fetch_metrics, network.base_url.removesuffix("/v1"))
    return {
        "versions": versions,
        "cores": os.cpu_count(),
        "answer_bytes": len(answer),
        "rounds": rounds,
        "summary": summarise(rounds),
        "signing_us": signing.measure(),
        "gateway_metrics": metrics,
    }


def fetch_metrics(base_url: str) -> dict[str, float]:
    """Return the gateway's own counts of calls, batches and vouchers, to show that they were on."""
    with urllib.request.urlopen(base_url + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = ("steelyard_gateway_calls", "steelyard_gateway_batches", "steelyard_gateway_vouchers")
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted)}


def print_summary(result: dict[str, Any]) -> None:
    """Print the table that the README quotes."""
    summary = result["summary"]
    print(f"{'':12} {'req/s at 1':>11} {'req/s at 32':>12} {'p50 at 1':>10} {'added at 1':>11} {'p99 at 32':>10}")
    for name, row in summary["targets"].items():
        rate, p50, p99 = row["requests_per_s"], row["p50_ms"], row["p99_ms"]
        print(
            f"{name:12} {rate[1]:>11,.0f} {rate[32]:>12,.0f} {p50[1]:>7.2f} ms {row['p50_added_ms_at_1']:>8.2f} ms "
            f"{p99[32]:>7.2f} ms"
        )
    print(f"\nof nginx's throughput at 32 connections:  {summary['steelyard_of_nginx_at_32']:.3f}   (aim 0.15)")
    print(f"of nginx's before a bare socket:          {summary['steelyard_of_nginx_bare_at_32']:.3f}")
    if summary["steelyard_of_litellm_at_32"]:
        print(f"of LiteLLM's, times:                      {summary['steelyard_of_litellm_at_32']:.0f}     (aim 100)")
    print(f"p50 added at one connection:              {summary['steelyard_p50_added_ms_at_1']:.2f} ms (aim 0.8)")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="The gateway beside nginx and LiteLLM.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--without-litellm", action="store_true")
    arguments = parser.parse_args()
    result = asyncio.run(run(arguments))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "gateway.json").write_text(json.dumps(result, indent=1) + "\n")
    print_summary(result)
    print(f"\nwritten: {results / 'gateway.json'}")


if __name__ == "__main__":
    main()
