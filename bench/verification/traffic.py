"""Record what nodes see of users' calls and of validators' probes, in a real network of two gateways and three nodes.

`python bench/verification/traffic.py [--calls 1500] [--seed 0]` writes traffic.json.gz: one row a call, in
the order in which nodes saw them, each with everything that reached a node (`watching_node`), and whether it was a
probe. Users and the prober act side by side, as often; the prober is the product's own, and learns from one user's call
in ten, as from those that a validator checks.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
from users import Person, new_person, split_pool
from watching_node import WATCH_VARIABLE

from steelyard.cli import local_network
from steelyard.cli.local_network import Network, NetworkPlan, open_network
from steelyard.cli.offerings import plan_echo
from steelyard.cli.processes import Child, Processes
from steelyard.validator.probes import Prober, ProbeShop, text_of

TRAFFIC = Path(__file__).parent / "traffic.json.gz"
FORMAT = "steelyard-traffic-1"
MODEL = "echo"
PACE_S = 0.15
"""Mean time between two users' calls, and between two probes."""
LEARNED = 0.1
THINKING_S = 3.0
GOES_ON = 0.8
BEFORE = 40_000
"""Users' calls of the days before, from which the prober has learned when the recording begins."""


class WatchedProcesses(Processes):
    """Starts nodes with eyes (`watching_node`), all else as always."""

    async def start(self, name: str, arguments: Any, **options: Any) -> Child:
        """Start one process; each node writes to a file beside the logs."""
        if list(arguments[:2]) == ["node", "run"]:
            watch = {WATCH_VARIABLE: str(self._logs.parent / f"{name}.watch")}
            options["environment"] = {**(options.get("environment") or {}), **watch}
            options["program"] = (str(Path(__file__).parent / "watching_node.py"),)
        return await super().start(name, arguments, **options)


class Street:
    """Where users live: they begin conversations at random moments, and go on with some of them after a while."""

    def __init__(self, network: Network, prober: Prober, texts: list[str], source: random.Random) -> None:
        self._urls, self._keys = list(network.base_urls.values()), list(network.keys.values())
        self._prober, self._texts, self._source = prober, texts, source
        self.bodies: set[str] = set()
        self.calls = self.failed = self._begun = 0
        self.ended_ms = 0

    async def live(self, calls: int, http: aiohttp.ClientSession) -> None:
        """Let conversations begin until so many calls were made; then wait for the last of them."""
        end = self.calls + calls
        async with asyncio.TaskGroup() as group:
            while self.calls < end:
                length = max(1.0, self.calls / max(1, self._begun))
                await asyncio.sleep(self._source.expovariate(1 / (PACE_S * length)))
                self._begun += 1
                group.create_task(self._talk(new_person(self._source, len(self._urls)), http))
            self.ended_ms = now_ms()

    def yesterday(self, calls: int) -> None:
        """Let the prober learn from so many calls of the days before, as it would have been shown them."""
        while calls > 0:
            person = new_person(self._source, len(self._urls))
            url = self._urls[person.gateway].removesuffix("/v1")
            for turn in range(person.app.turns):
                calls -= 1
                text = self._source.choice(self._texts)
                person.history.append({"role": "user", "content": text})
                if self._source.random() < LEARNED:
                    body = person.app.body(MODEL, person.history, person.user, self._source)
                    self._prober.learn("chat.completions", MODEL, body, url)
                if turn + 1 == person.app.turns or self._source.random() > GOES_ON:
                    break
                person.history.append({"role": "assistant", "content": text})

    async def _talk(self, person: Person, http: aiohttp.ClientSession) -> None:
        url, key = self._urls[person.gateway], self._keys[person.gateway]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        for turn in range(person.app.turns):
            person.history.append({"role": "user", "content": self._texts.pop()})
            body = person.app.body(MODEL, person.history, person.user, self._source)
            self.bodies.add(body.decode())
            self.calls += 1
            async with http.post(url + "/chat/completions", data=body, headers=headers) as answer:
                content = await answer.read()
                if answer.status != 200:
                    self.failed += 1
                    return
            if self._source.random() < LEARNED:
                self._prober.learn("chat.completions", MODEL, body, url.removesuffix("/v1"))
            if turn + 1 == person.app.turns or self._source.random() > GOES_ON:
                return
            person.history.append({"role": "assistant", "content": text_of(content)})
            await asyncio.sleep(self._source.expovariate(1 / THINKING_S))


async def probe(prober: Prober, calls: int) -> int:
    """Buy until so many probes were made, in the validator's own rhythm; return when the last conversation began."""
    end = prober.answered + prober.failed + calls
    async with asyncio.TaskGroup() as group:
        while prober.answered + prober.failed < end:
            await asyncio.sleep(prober.pause_s())
            group.create_task(prober.probe())
        return now_ms()  # leaving the group waits for conversations, the value stays


def now_ms() -> int:
    """Return Unix milliseconds."""
    return time.time_ns() // 1_000_000


async def record(calls: int, seed: int, home: Path) -> dict[str, Any]:
    """Run the network and return the recording."""
    local_network.Processes = WatchedProcesses  # type: ignore[misc]
    plan = NetworkPlan(home=home, services=[plan_echo()], providers=3, gateways=2)
    users_texts, probes_texts = split_pool(seed)
    async with open_network(plan, lambda step: print(step, file=sys.stderr)) as network:
        shop = ProbeShop({url.removesuffix("/v1"): network.keys[name] for name, url in network.base_urls.items()})
        prober = Prober(shop, probes_per_hour=3600 / PACE_S, prompts=probes_texts, thinking_s=THINKING_S)
        street = Street(network, prober, users_texts, random.Random(seed))
        async with aiohttp.ClientSession() as http:
            street.yesterday(BEFORE)
            begun_ms = now_ms()
            _, probes_ended_ms = await asyncio.gather(street.live(calls, http), probe(prober, calls))
            ended_ms = min(street.ended_ms, probes_ended_ms)  # afterwards only one of both was going on
        await shop.aclose()
        print(f"{prober.answered} probes answered, {prober.failed} failed; {street.failed} users' calls failed")
    rows = [
        {**json.loads(line), "node": path.stem}
        for path in sorted(home.glob("*.watch"))
        for line in path.read_text("utf-8").splitlines()
    ]
    rows = sorted((row for row in rows if begun_ms <= row["at_ms"] < ended_ms), key=lambda row: row["at_ms"])
    gateways = sorted({row["gateway"] for row in rows})
    for row in rows:
        row["at_ms"] -= begun_ms
        row["gateway"] = gateways.index(row["gateway"])
        row["is_probe"] = row["body"] not in street.bodies
    return {"format": FORMAT, "calls": rows, "probes_failed": prober.failed}


def main() -> None:
    """Record, and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1500, help="of users, and of probes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TRAFFIC)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steelyard-traffic-") as folder:
        recording = asyncio.run(record(options.calls, options.seed, Path(folder) / "home"))
    data = json.dumps(recording, separators=(",", ":"), ensure_ascii=False).encode()
    options.out.write_bytes(gzip.compress(data, 9, mtime=0))
    probes = sum(row["is_probe"] for row in recording["calls"])
    print(
        f"{len(recording['calls'])} calls, {probes} of them probes: {options.out}, {options.out.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
