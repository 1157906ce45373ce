"""Two thousand open streams: what they cost in memory, and what a gateway adds to the first token.

`python bench/gateway/streams.py [--streams 2000] [--json FILE]`

`echo` answers word by word with a pause before each. First 200 streams one after the other, each beside one of a bare
socket server that pauses and answers as well: what the median and the 95th percentile are later is what gateway, link
and node add. Then all streams are opened at once and held open while the
resident memory of gateway and node is read; the time to the first piece under that load is told too, and so is whether
every stream ended whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from steelyard.cli.local_network import Network, NetworkPlan, open_network
from steelyard.cli.offerings import plan_echo

HERE = Path(__file__).parent
SINGLY, PAUSE_MS, LONG_PAUSE_MS, WORDS = 200, 20, 1_000, 45
OPENING_S = 12.0


@dataclass(slots=True)
class Seen:
    """What the client saw of some streams."""

    first_ms: list[float] = field(default_factory=list)
    whole: int = 0
    broken: list[str] = field(default_factory=list)


async def read_stream(session: aiohttp.ClientSession, network: Network, model: str, text: str, seen: Seen) -> None:
    """Read one stream to its end."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": 4_000,
        "messages": [{"role": "user", "content": text}],
    }
    headers = {"Authorization": f"Bearer {network.key}"}
    begun_s, found, is_done = time.perf_counter(), "", False
    async with session.post(network.base_url + "/chat/completions", json=body, headers=headers) as answer:
        if answer.status != 200:
            seen.broken.append(f"{answer.status}: {(await answer.text())[:200]}")
            return
        async for line in answer.content:
            if line.startswith(b"data: [DONE]"):
                is_done = True
            elif line.startswith(b"data: "):
                for choice in json.loads(line[6:]).get("choices", ()):
                    piece = choice["delta"].get("content") or ""
                    if piece and not found:
                        seen.first_ms.append((time.perf_counter() - begun_s) * 1000)
                    found += piece
    if is_done and found == text:
        seen.whole += 1
    else:
        seen.broken.append(f"{len(found)} of {len(text)} characters, done: {is_done}")


def resident_mib(pid: int) -> float:
    """Return a process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def percentile(values: list[float], share: float) -> float:
    """Return a percentile, or 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


async def answer_barely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests on one connection with a pause and a chunk, as little as a server can do."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            await asyncio.sleep(PAUSE_MS / 1000)
            chunk = b'data: {"choices":[{"delta":{"content":"one "}}]}\n\n'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(chunk) + chunk)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve_barely() -> None:
    """Serve on a free port until killed, and print it."""
    server = await asyncio.start_server(answer_barely, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def time_barely(session: aiohttp.ClientSession, url: str) -> float:
    """Return the milliseconds to the bare server's first piece."""
    begun_s = time.perf_counter()
    async with session.post(url, json={"messages": [{"role": "user", "content": "one two three"}]}) as answer:
        await answer.content.readline()
        first_ms = (time.perf_counter() - begun_s) * 1000
        await answer.read()
    return first_ms


async def measure(network: Network, streams: int, bare_url: str) -> dict[str, Any]:
    """Return the figures."""
    pids = {name: network.processes.children[name].pid for name in ("gateway", "node-1")}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        singly, bare = Seen(), []
        for _ in range(SINGLY + 20):
            bare.append(await time_barely(session, bare_url))
            await read_stream(session, network, "quick", "one two three", singly)
        ours, theirs = singly.first_ms[20:], bare[20:]
        idle = {name: resident_mib(pid) for name, pid in pids.items()}
        many, text = Seen(), " ".join(["weigh"] * WORDS)
        tasks = []
        for _ in range(streams):
            tasks.append(asyncio.create_task(read_stream(session, network, "slow", text, many)))
            await asyncio.sleep(OPENING_S / streams)
        most, peak = 0, dict(idle)
        while any(not task.done() for task in tasks):
            async with session.get(network.base_url.removesuffix("/v1") + "/metrics") as answer:
                lines = (await answer.text()).splitlines()
            gauge = next(line for line in lines if line.startswith("steelyard_gateway_calls_in_flight "))
            most = max(most, int(float(gauge.split()[1])))
            peak = {name: max(peak[name], resident_mib(pid)) for name, pid in pids.items()}
            await asyncio.sleep(0.5)
        await asyncio.gather(*tasks)
    return {
        "streams_open_at_once": most,
        "ended_whole": many.whole,
        "broken": many.broken[:5],
        "resident_mib_idle": idle,
        "resident_mib_peak": peak,
        "first_piece_ms": {"p50": percentile(ours, 0.5), "p95": percentile(ours, 0.95)},
        "first_piece_bare_ms": {"p50": percentile(theirs, 0.5), "p95": percentile(theirs, 0.95)},
        "first_piece_added_ms": {
            name: percentile(ours, share) - percentile(theirs, share) for name, share in (("p50", 0.5), ("p95", 0.95))
        },
        "first_piece_ms_while_opening": {
            "pause": LONG_PAUSE_MS,
            "p50": percentile(many.first_ms, 0.5),
            "p95": percentile(many.first_ms, 0.95),
        },
    }


async def run(streams: int) -> dict[str, Any]:
    """Start a network, and return its figures."""
    services = [
        replace(plan_echo("quick"), options={"delay_ms": str(PAUSE_MS)}),
        replace(plan_echo("slow"), options={"delay_ms": str(LONG_PAUSE_MS)}),
    ]
    with tempfile.TemporaryDirectory(prefix="steelyard-bench-") as folder:
        node = {"max_calls": 4_096, "credit_base_nano": 10**10}
        plan = NetworkPlan(home=Path(folder) / "home", services=services, providers=1, node=node)
        async with open_network(plan, lambda step: print(step, file=sys.stderr)) as network:
            command = [sys.executable, __file__, "--bare"]
            bare = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            try:
                port = int(await bare.stdout.readline()) if bare.stdout is not None else 0
                return await measure(network, streams, f"http://127.0.0.1:{port}/")
            finally:
                bare.kill()
                await bare.wait()


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Memory and first token of many open streams.")
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "streams.json")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        asyncio.run(serve_barely())
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    found = {"cores": os.cpu_count(), **asyncio.run(run(arguments.streams))}
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    peak, added = found["resident_mib_peak"], found["first_piece_added_ms"]
    print(f"streams open at once:            {found['streams_open_at_once']:,}, ended whole: {found['ended_whole']:,}")
    print(f"resident, gateway and node:      {peak['gateway']:.0f} and {peak['node-1']:.0f} MiB (aim: under 1,024)")
    print(f"added to the first piece:        p50 {added['p50']:.1f} ms, p95 {added['p95']:.1f} ms (aim: 5)")
    while_opening = found["first_piece_ms_while_opening"]
    print(f"first piece while they open:     p50 {while_opening['p50']:.0f} ms, p95 {while_opening['p95']:.0f} ms")
    print(f"                                 (the echo's own pause, {LONG_PAUSE_MS} ms, is in it)")
    sys.exit(0 if found["ended_whole"] == arguments.streams else 1)


if __name__ == "__main__":
    main()
