"""The end: waits until everything is settled and redeemed, and asks every book whether it agrees with the others."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from load import Seen
from watch import read_rows

from steelyard.chain.escrow import EscrowClient
from steelyard.chain.rpc import ChainRpc
from steelyard.cli.local_network import Network

BUGS = re.compile(r'"(?:beat_crashed|internal_error|link_admit_failed|write_refused)"|Traceback|"level": "critical"')
UNSIGNED_S = 1.0
"""A node signs for a receipt 250 ms after it at most; a busy machine is given the rest."""

RECEIPTS = "SELECT COALESCE(SUM(cost_nano), 0), COUNT(*) FROM calls WHERE receipt_hash IS NOT NULL"


@dataclass(slots=True)
class Books:
    """What every book says at the end, in nano."""

    receipts_nano: int
    receipts: int
    batched_nano: int
    unsigned: int
    stale: list[str]
    signed_nano: int
    accepted_nano: int
    lost_vouchers: list[str]
    overspent: list[str]
    key_differences: list[str]
    audit: dict[str, Any]
    bugs: list[str]
    settled_after_s: float


async def settle(network: Network, timeout_s: float) -> float:
    """Wait until no call is open or lost, and all that was batched is signed for and redeemed; return how long."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < timeout_s:
        await asyncio.sleep(1.0)
        gauges = await fetch_gauges(network)
        idle = not gauges["calls_in_flight"] and not gauges["calls_lost_unsettled"] and not gauges["writes_queued"]
        crashed = read_rows(network, "SELECT COUNT(*) FROM slices WHERE state = 'crashed'")[0][0]
        lanes = read_rows(network, "SELECT lane_key, batched_cumulative_nano, signed_cumulative_nano FROM lanes")
        if idle and not crashed and all(batched == signed for _, batched, signed in lanes):
            accepted = await fetch_accepted(network, [key for key, _, _ in lanes])
            if all(accepted[key] == signed for key, _, signed in lanes):
                break
    return time.monotonic() - begun_s


async def fetch_gauges(network: Network) -> dict[str, float]:
    """Return the gateway's gauges without their prefix."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(network.base_url.removesuffix("/v1") + "/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    pairs = (line.removeprefix("steelyard_gateway_").split() for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "{" not in name}


async def fetch_accepted(network: Network, lanes: list[bytes]) -> dict[bytes, int]:
    """Return what the chain accepted as owed on each lane, paid or not."""
    async with ChainRpc([network.rpc_url]) as rpc:
        escrow = EscrowClient(rpc, network.deployment)
        return {lane: (await escrow.fetch_lane(lane)).accepted_nano for lane in lanes}


async def read_books(network: Network, seen: Seen, settled_after_s: float, kills: Sequence[tuple[str, int]]) -> Books:
    """Return what the books say; the gateway must have been stopped in order, so that its budgets are saved.

    Args:
        kills: which process was killed, and when in Unix milliseconds.
    """
    (receipts_nano, receipts), *_ = read_rows(network, RECEIPTS)
    lanes = read_rows(network, "SELECT lane_key, batched_cumulative_nano, signed_cumulative_nano FROM lanes")
    accepted = await fetch_accepted(network, [lane for lane, _, _ in lanes])
    query = "SELECT lane_key, voucher_cumulative_nano FROM node_lanes"
    held = {key: nano for name in network.accounts.providers for key, nano in read_rows(network, query, f"{name}.db")}
    lost = [
        f"lane {lane.hex()[:12]}: signed {signed}, its node holds {held.get(lane, 0)}, the chain {accepted[lane]}"
        for lane, _, signed in lanes
        if max(held.get(lane, 0), accepted[lane]) < signed
    ]
    return Books(
        receipts_nano=receipts_nano,
        receipts=receipts,
        batched_nano=sum(batched for _, batched, _ in lanes),
        unsigned=len(unsigned := _unsigned(network)),
        stale=_stale(network, unsigned, kills),
        signed_nano=sum(signed for _, _, signed in lanes),
        accepted_nano=sum(accepted.values()),
        lost_vouchers=lost,
        overspent=_overspent(network, seen),
        key_differences=_differences(network),
        audit=await _audit(network),
        bugs=_find_bugs(network),
        settled_after_s=settled_after_s,
    )


def _unsigned(network: Network) -> list[tuple[bytes, int]]:
    """Receipts that no batch holds: their providers and ends. Their nodes were killed before they signed for them."""
    leaves: set[bytes] = set()
    for (blob,) in read_rows(network, "SELECT leaves FROM batches"):
        leaves |= {blob[at : at + 32] for at in range(0, len(blob), 32)}
    query = "SELECT receipt_hash, provider, finished_ms FROM calls WHERE receipt_hash IS NOT NULL"
    return [(provider, at_ms) for receipt, provider, at_ms in read_rows(network, query) if receipt not in leaves]


def _stale(network: Network, unsigned: Sequence[tuple[bytes, int]], kills: Sequence[tuple[str, int]]) -> list[str]:
    """Those of them that their node had time to sign for."""
    names = {network.accounts[name].account: name for name in network.accounts.providers}
    return [
        f"{names[provider]}: a receipt of {at_ms} was in no batch"
        for provider, at_ms in unsigned
        if not any(
            name == names[provider] and -500 < killed_ms - at_ms < UNSIGNED_S * 1000 for name, killed_ms in kills
        )
    ]


def _overspent(network: Network, seen: Seen) -> list[str]:
    found = []
    query = (
        "SELECT k.name, b.limit_nano, b.spent_nano, b.leased_nano, "
        "COALESCE(SUM(COALESCE(c.charged_nano, c.cost_nano)), 0) FROM api_keys k "
        "JOIN budgets b USING (budget_id) LEFT JOIN calls c USING (key_id) WHERE b.limit_nano IS NOT NULL GROUP BY 1"
    )
    clients = {key.name: key.seen_nano for key in seen.keys}
    for name, limit, spent, leased, called in read_rows(network, query):
        if max(spent + leased, called, clients.get(name, 0)) > limit:
            client = clients.get(name, 0)
            found.append(f"{name}: limit {limit}, spent {spent} + {leased}, calls {called}, clients saw {client}")
    return found


def _differences(network: Network) -> list[str]:
    """Keys whose budget isn't what they paid for their calls: not these' cost, where an answer took several orders."""
    query = (
        "SELECT k.name, b.spent_nano, COALESCE(SUM(COALESCE(c.charged_nano, c.cost_nano)), 0) AS called "
        "FROM api_keys k JOIN budgets b "
        "USING (budget_id) LEFT JOIN calls c USING (key_id) GROUP BY 1 HAVING b.spent_nano <> called"
    )
    return [f"{name}: spent {spent}, calls {called}" for name, spent, called in read_rows(network, query)]


def _find_bugs(network: Network) -> list[str]:
    found = []
    for log in sorted(network.settings.logs_folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        found += [f"{log.stem}: {line[:300]}" for line in lines if BUGS.search(line)]
    return found


async def _audit(network: Network) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "steelyard", "audit", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | network.environment,
    )
    output, _ = await process.communicate()
    report: dict[str, Any] = json.loads(output)
    return report
