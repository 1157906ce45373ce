"""A bounded, seeded chaos run: a real network is broken again and again under load, and then every book is asked.

`python bench/soak/run.py [--seconds 600] [--seed N] [--rate 30] [--json FILE]`, or `make soak SECONDS=60 SEED=7`.

Chain, gateway and three nodes are processes of their own. At times that follow from the seed they are killed with
SIGKILL and started again, stopped for a while, and their connections cut, held or refused. Clients with small budgets
call, stream and hang up all the time. The status is 1 if one line of the table says no. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from books import read_books, settle
from faults import Fault, plan_faults
from load import SLOW, WHOLE, Load
from tests.cutting_proxy import CuttingProxy
from verdict import Verdict, judge, print_verdict
from watch import Watch, count_held, count_held_at_rest

from steelyard.cli.local_network import GATEWAY, Network, NetworkPlan, choose_ports, open_network
from steelyard.cli.offerings import plan_echo
from steelyard.errors import ConfigError
from steelyard.storage.database import open_database

HERE = Path(__file__).parent
PROVIDERS = 3
KEY_LIMIT_NANO = 60_000
SETTINGS: dict[str, Any] = {"deadline_s": 10.0, "grace_s": 25.0, "checks_keep_bytes": 1 << 20, "drain_s": 3.0}
NODE = {"redeem_after_s": 5.0}
RESTART_PATIENCE_S = 45.0


class Chaos:
    """Breaks a network by a schedule, and mends it."""

    def __init__(self, network: Network, links: CuttingProxy, clients: CuttingProxy) -> None:
        self.done: list[dict[str, Any]] = []
        self.kills: list[tuple[str, int]] = []
        self._network = network
        self._links = links
        self._clients = clients
        self._locks: dict[str, asyncio.Lock] = {}
        self._begun_s = time.monotonic()

    async def run(self, faults: list[Fault]) -> None:
        """Strike each fault at its time; faults of different targets may overlap."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, self._begun_s + fault.at_s - time.monotonic()))
                group.create_task(self._strike(fault), name=f"{fault.kind}-{fault.at_s}")

    async def _strike(self, fault: Fault) -> None:
        async with self._locks.setdefault(fault.target, asyncio.Lock()):
            struck_s = time.monotonic() - self._begun_s
            if fault.kind.startswith("kill-"):
                await self._kill(fault)
            elif fault.kind == "freeze-node":
                pid = self._network.processes.children[fault.target].pid
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(fault.for_s)
                os.kill(pid, signal.SIGCONT)
            elif fault.kind == "cut-links":
                self._links.cut()
            elif fault.kind == "cut-clients":
                self._clients.cut()
            elif fault.kind == "hold-links":
                self._links.freeze()
            else:
                self._links.is_open = False
                self._links.cut()
                await asyncio.sleep(fault.for_s)
                self._links.is_open = True
            took_s = time.monotonic() - self._begun_s - struck_s
            self.done.append(fault.to_json() | {"struck_s": round(struck_s, 2), "took_s": round(took_s, 2)})
            print(f"{struck_s:7.1f} s  {fault.kind:13} {fault.target:10} {took_s:5.1f} s", file=sys.stderr)

    async def _kill(self, fault: Fault) -> None:
        network, name = self._network, fault.target
        await network.processes.kill(name)
        self.kills.append((name, time.time_ns() // 1_000_000))
        await asyncio.sleep(fault.for_s)
        deadline = time.monotonic() + RESTART_PATIENCE_S
        while True:
            try:
                if name == "chain":
                    await network.start_chain()
                elif name == GATEWAY:
                    await network.start_gateway()
                else:
                    await network.start_node(name)
            except ConfigError as error:  # what it needs is down as well: as a service manager would, try again
                if time.monotonic() > deadline:
                    raise
                print(f"{name} is not up yet: {error.message[:120]}", file=sys.stderr)
                await asyncio.sleep(0.5)
            else:
                return


async def soak(arguments: argparse.Namespace) -> tuple[Verdict, dict[str, Any]]:
    """Run everything once, and return the verdict and all that was measured."""
    faults = plan_faults(arguments.seed, arguments.seconds, [f"node-{n}" for n in range(1, PROVIDERS + 1)])
    http_port, link_port = choose_ports(0, 0)
    links, clients = CuttingProxy(link_port), CuttingProxy(http_port)
    link_url = f"ws://127.0.0.1:{await links.start()}/link"
    clients_url = f"http://127.0.0.1:{await clients.start()}/v1"
    slow = replace(plan_echo(SLOW), options={"delay_ms": "15"})
    with tempfile.TemporaryDirectory(prefix="steelyard-soak-", ignore_cleanup_errors=True) as folder:
        plan = NetworkPlan(
            home=Path(folder) / "home",
            services=[plan_echo(WHOLE), slow],
            providers=PROVIDERS,
            http_port=http_port,
            link_port=link_port,
            gateway=SETTINGS | {"link_url": link_url},
            node=NODE,
        )
        async with open_network(plan, lambda step: print(step, file=sys.stderr)) as network:
            database = await open_database(network.settings.gateway_database)
            await asyncio.sleep(2.0)
            before = await count_held(network)
            watch = Watch(network)
            watching = asyncio.create_task(watch.run(), name="watch")
            load = Load(
                clients_url,
                database,
                arguments.seed,
                rate=arguments.rate,
                workers=max(8, arguments.rate // 3),
                limit_nano=KEY_LIMIT_NANO,
            )
            stop = asyncio.Event()
            calling = asyncio.create_task(load.run(stop), name="load")
            chaos = Chaos(network, links, clients)
            try:
                async with asyncio.timeout(arguments.seconds + RESTART_PATIENCE_S):
                    await chaos.run(faults)
                await asyncio.sleep(max(0.0, arguments.seconds - faults[-1].at_s))
            finally:
                stop.set()
                watching.cancel()
            await calling
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            print("the load has stopped; waiting until all is settled and redeemed", file=sys.stderr)
            settled_after_s = await settle(network, timeout_s=90.0)
            after = await count_held_at_rest(network, before)
            await network.processes.stop(GATEWAY)  # budgets are saved with it
            books = await read_books(network, load.seen, settled_after_s, chaos.kills)
            if arguments.keep:
                Path(folder).rename(arguments.keep)
        await database.aclose()
    await links.aclose()
    await clients.aclose()
    verdict = judge(load.seen, watch, books, before, after, arguments.seconds)
    measured = {
        "seed": arguments.seed,
        "seconds": arguments.seconds,
        "rate": arguments.rate,
        "lines": [asdict(line) for line in verdict.lines],
        "is_good": verdict.is_good,
        "faults": chaos.done,
        "outcomes": dict(load.seen.outcomes.most_common()),
        "keys": len(load.seen.keys),
        "lives": [
            {"name": life.name, "seconds": round(life.samples[-1][0]), "growth": life.growth()}
            for life in watch.lives
            if life.samples
        ],
        "held_before": before,
        "held_after": after,
        "settled_after_s": settled_after_s,
    }
    return verdict, measured


def main() -> None:
    """Run the soak from the command line."""
    parser = argparse.ArgumentParser(description="Kills, cuts and freezes a network under load, then audits it.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the load runs")
    parser.add_argument("--seed", type=int, default=20261123, help="of the schedule of faults")
    parser.add_argument("--rate", type=int, default=30, help="calls a second")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "soak.json", help="where the figures are kept")
    parser.add_argument("--keep", type=Path, help="where the network's home is moved to, for a look afterwards")
    arguments = parser.parse_args()
    if arguments.seconds < 20:
        parser.error("--seconds must be at least 20: nothing can break and mend in less")
    verdict, measured = asyncio.run(soak(arguments))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    print_verdict(verdict, measured)
    print(f"kept: {arguments.json}")
    sys.exit(0 if verdict.is_good else 1)


if __name__ == "__main__":
    main()
