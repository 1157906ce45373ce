"""Echo calls a second over one link, both ends in this process on loopback: `python bench/link/echo.py [--json FILE]`.

Prints throughput and the CPU time of both ends together per call, best of three. No signature, hash, database or
service is in it: what the link itself costs. The machine's own swing is some 30 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from steelyard.link.client import LinkClient
from steelyard.link.port import CallRequest, Failure, GatewayLink, Piece
from steelyard.link.provider_link import ProviderSession
from steelyard.link.server import LinkServer, unix_ms
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState
from steelyard.protocol.messages import Order, Receipt
from steelyard.protocol.signing import Domain, SigningKey

DOMAIN = Domain(31415, b"\x05" * 32)
GATEWAY_KEY, PROVIDER_KEY = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
BODY = b"x" * 350
CALLS = 30_000


class Gateway:
    """Admits everybody."""

    def __init__(self) -> None:
        self.up = asyncio.Event()

    async def admit_provider(self, *_: object) -> None: ...

    def known_lanes(self, provider: bytes) -> Sequence[LaneState]:
        return ()

    def on_link_up(self, link: object) -> None:
        self.up.set()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Node:
    """Answers every call with its body, at once."""

    async def admit_gateway(self, gateway: bytes) -> None: ...

    async def on_link_up(self, *_: object) -> None: ...

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        receipt = Receipt(ZERO32, 0, ZERO32, ZERO32, 1, 1, 5, 1, 2, 0)
        link.send_done(request.order.call_id, receipt, Piece(request.body, 1, 1))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Sink:
    """Opens the next call when one ends."""

    __slots__ = ("on_end",)

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.on_end = on_end

    def on_piece(self, piece: Piece) -> None: ...

    def on_done(self, receipt: Receipt) -> None:
        self.on_end()

    def on_fail(self, failure: Failure) -> None:
        raise SystemExit(failure)


async def measure(link: ProviderSession, in_flight: int, first_id: int) -> dict[str, float]:
    """Run `CALLS` calls with so many in flight."""
    order = Order(
        b"\x00" * 16, GATEWAY_KEY.account, PROVIDER_KEY.account, ZERO32, 7, ZERO32, ZERO32, 1, 4, 1, 2, 9,
        unix_ms() + 600_000,
    )  # fmt: skip
    begun, ended, done = 0, 0, asyncio.Event()

    def begin() -> None:
        nonlocal begun
        begun += 1
        call_id = (first_id + begun).to_bytes(16, "big")
        request = CallRequest(msgspec.structs.replace(order, call_id=call_id), b"\x00" * 16, ZERO32, "echo", BODY)
        link.open_call(request, Sink(end), is_stream=False)

    def end() -> None:
        nonlocal ended
        ended += 1
        if begun < CALLS:
            begin()
        elif ended == CALLS:
            done.set()

    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(in_flight):
        begin()
    await done.wait()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"in_flight": in_flight, "calls_per_s": round(CALLS / wall), "cpu_us_per_call": round(cpu / CALLS * 1e6, 1)}


async def run() -> list[dict[str, Any]]:
    """Measure 1, 32 and 256 calls in flight, three times each; return the best of each."""
    gateway, node = Gateway(), Node()
    server = LinkServer(GATEWAY_KEY, DOMAIN, gateway)  # type: ignore[arg-type]
    port = await server.start("127.0.0.1", 0)
    client = LinkClient(f"ws://127.0.0.1:{port}", PROVIDER_KEY, DOMAIN, node)  # type: ignore[arg-type]
    task = asyncio.create_task(client.run())
    await gateway.up.wait()
    results, first_id = [], 0
    for in_flight in (1, 32, 256):
        tries = []
        for _ in range(3):
            tries.append(await measure(server.links[0], in_flight, first_id))
            first_id += CALLS
            await asyncio.sleep(1)
        results.append(max(tries, key=lambda result: result["calls_per_s"]))
    await client.aclose()
    await task
    await server.aclose()
    return results


def main() -> None:
    """Measure on asyncio and, where it is installed, on uvloop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None}
    try:
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    except ImportError:
        pass
    results = {}
    for name, factory in loops.items():
        with asyncio.Runner(loop_factory=factory) as runner:
            results[name] = runner.run(run())
        for row in results[name]:
            print(f"{name:8} {row['in_flight']:4} in flight {row['calls_per_s']:7,} calls/s "
                  f"{row['cpu_us_per_call']:6} µs CPU a call, both ends")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
