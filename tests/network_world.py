"""Whole networks for tests: real processes, real sockets, a real chain, in a folder of the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from tests.chains import open_chain

from steelyard.chain.escrow import EscrowClient
from steelyard.chain.rpc import ChainRpc
from steelyard.cli.genesis import ServicePlan, open_accounts
from steelyard.cli.local_network import Network, NetworkPlan, open_network, prepare_home
from steelyard.cli.offerings import plan_echo
from steelyard.cli.settings_file import load_settings

QUICK_NODE = {"redeem_after_s": 1.0}
GAS_WEI = 100 * 10**18


def silent(step: str) -> None:
    """Say nothing of a step."""


def echo_service(delay_ms: int = 0) -> ServicePlan:
    """Return the echo service, with a pause before each word of a stream."""
    plan = plan_echo()
    options = {"delay_ms": str(delay_ms)} if delay_ms else {}
    return ServicePlan(
        name=plan.name,
        kind=plan.kind,
        manifest=plan.manifest,
        grade=plan.grade,
        price_in=plan.price_in,
        price_out=plan.price_out,
        options=options,
    )


def echo_plan(home: Path, **changes: Any) -> NetworkPlan:
    """Return the plan of a small network that serves `echo` and redeems within about a second."""
    values: dict[str, Any] = {"services": [echo_service()], "providers": 1, "node": QUICK_NODE} | changes
    return NetworkPlan(home=home, **values)


@asynccontextmanager
async def open_echo_network(home: Path, chain: str, **changes: Any) -> AsyncIterator[Network]:
    """Give that network, on our own chain ("embedded") or on one that knows nothing of us ("anvil")."""
    if chain == "embedded":
        async with open_network(echo_plan(home, **changes), silent) as network:
            yield network
        return
    with open_chain("anvil") as running:
        plan = echo_plan(home, rpc_url=running.url, **changes)
        accounts = open_accounts(load_settings(plan.home).keys_folder, prepare_home(plan), plan.providers)
        async with ChainRpc([running.url]) as rpc:
            for key in accounts.keys.values():
                await rpc.call("anvil_setBalance", ["0x" + key.account.hex(), hex(GAS_WEI)])
        async with open_network(plan, silent) as network:
            yield network


async def steelyard(network: Network, *arguments: str, status: int = 0) -> Any:
    """Run a command of the network's with ``--json`` and return what it prints; its exit status must be `status`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "steelyard",
        *arguments,
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | network.environment,
    )
    output, errors = await process.communicate()
    assert process.returncode == status, (arguments, output.decode(), errors.decode())
    return json.loads(output)


async def fetch(network: Network, path: str, key: str | None = None) -> Any:
    """Return the JSON of one of the gateway's pages."""
    headers = {"Authorization": f"Bearer {key or network.key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(network.base_url + path) as answer:
        return await answer.json()


async def until(is_so: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 30.0) -> None:
    """Wait until something is so; fails the test with `what` if it never is."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if await is_so():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"after {timeout_s:.0f} s still not: {what}")


async def redeemed_nano(network: Network) -> int:
    """Return what the network's gateway has paid on chain, over all its lanes."""
    report = await steelyard(network, "audit")
    assert report["money_conserved"] == "yes", report["findings"]
    return sum(gateway["redeemed_nano"] for gateway in report["gateways"])


async def lane_totals(network: Network, lane_key: bytes) -> tuple[int, int]:
    """Return (accepted, paid) of a lane on chain, in nano."""
    async with ChainRpc([network.rpc_url]) as rpc:
        totals = await EscrowClient(rpc, network.deployment).fetch_lane(lane_key)
    return totals.accepted_nano, totals.paid_nano


async def charged_nano(network: Network, key: str | None = None) -> int:
    """Return what a key was charged for all its calls, in nano."""
    calls = await fetch(network, "/calls?limit=200", key)
    return sum(call["cost_nano"] for call in calls["data"] if call["is_charged"])
