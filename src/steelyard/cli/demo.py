"""``steelyard demo``: the whole loop for real, from a fresh network to an audit that says whether money is conserved.

1. Its calls go through the unmodified `openai` package, streamed and not, over real sockets to real models.
2. Every receipt is checked here, offline, from the bytes that were sent and received.
3. Nothing is assumed: balances come from the chain, the verdict from `steelyard audit`, and anything amiss ends the
   demo with status 1. Its folder is removed when all went well, and kept and named otherwise.

Law: docs/cli.md, "steelyard demo".
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from steelyard.cli.demo_calls import CHATS, EMBEDDING_CALLS, DemoCall, check_call, run_calls
from steelyard.cli.invocation import Invocation
from steelyard.cli.local_network import Network, NetworkPlan, open_network
from steelyard.cli.network import activation
from steelyard.cli.offerings import CHAT, EMBEDDINGS, plan_smollm2
from steelyard.cli.progress import Steps
from steelyard.errors import ConfigError, Unavailable
from steelyard.protocol.pricing import format_yard

REDEEM_AFTER_S = 1.0
SETTLE_TIMEOUT_S = 60.0


def run_demo(invocation: Invocation, *, providers: int) -> None:
    """Run the demo and print its tables; ends the process with status 1 if anything is amiss."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=132)
    home = Path(tempfile.mkdtemp(prefix="steelyard-demo-"))
    try:
        is_well = asyncio.run(_demo(invocation, home, providers, console))
    except BaseException:
        console.print(f"[red]The demo stopped early; its logs are in {home}/logs[/]")
        raise
    if not is_well:
        console.print(f"[red]Something is amiss; everything is kept in {home}[/]")
        raise typer.Exit(1)
    shutil.rmtree(home, ignore_errors=True)
    console.print("\n[dim]Next: steelyard up (make up), which keeps such a network running and prints a key for it.[/]")
    if line := activation():
        console.print(f"[dim]      {line}[/]")


async def _demo(invocation: Invocation, home: Path, providers: int, console: Console) -> bool:
    started_s = time.monotonic()
    with Steps(console=console) as steps:
        services = await plan_smollm2(invocation.settings, steps.progress)
        plan = NetworkPlan(home=home, services=services, providers=providers, node={"redeem_after_s": REDEEM_AFTER_S})
        async with open_network(plan, steps.report) as network:
            steps.end(f"a chain, a gateway and {providers} staked providers that serve {CHAT} are up")
            before = await _balances(network)
            calls = await run_calls(network.base_url, network.key, steps.progress, CHAT, EMBEDDINGS)
            steps.end(f"{CHATS} chats and {EMBEDDING_CALLS} embeddings answered through the stock openai client")
            steps.report("checking every receipt")
            domain = network.deployment.domain
            checked = [await check_call(network.base_url, network.key, domain, call) for call in calls]
            good = sum(call.problem == "" for call in checked)
            steps.end(
                f"{good} of {len(checked)} receipts verified: hashes, Merkle proof, provider's and gateway's signature"
            )
            steps.report("redeeming vouchers on chain")
            cost = sum(call.cost_nano for call in checked)
            await _await_redemption(network, cost)
            steps.end("vouchers redeemed on chain, shares swept to the providers' wallets")
            steps.report("auditing")
            after = await _balances(network)
            report = await _audit(network)
            steps.end("audited from chain and blobs alone")
    _print_calls(console, network, checked)
    _print_balances(console, before, after)
    earned = sum(after[name] - amount for name, amount in before.items())
    is_well = _print_verdict(console, report, checked, cost) and earned == 0
    console.print(f"[dim]{time.monotonic() - started_s:.0f} s in all[/]")
    return is_well


async def _balances(network: Network) -> dict[str, int]:
    """Return what every account of the network holds anywhere on chain, in nano, by name."""
    from steelyard.chain.escrow import EscrowClient
    from steelyard.chain.rpc import ChainRpc

    names = ["gateway", *network.accounts.providers, "builder", "data-pot", "rewards"]
    accounts = [*(network.accounts[name].account for name in names[:-1]), network.deployment.rewards]
    async with ChainRpc([network.rpc_url]) as rpc:
        escrow = EscrowClient(rpc, network.deployment)
        wallets = await escrow.yard.fetch_balances(accounts)
        unswept = await escrow.fetch_unswept(accounts)
        deposit = (await escrow.fetch_account(accounts[0])).deposit_nano
    held = {name: wallet + share for name, wallet, share in zip(names, wallets, unswept, strict=True)}
    held["gateway"] += deposit
    return held


async def _await_redemption(network: Network, cost_nano: int) -> None:
    """Wait until the chain has paid for every call, and the providers have their shares in their wallets."""
    from steelyard.chain.escrow import EscrowClient
    from steelyard.chain.rpc import ChainRpc

    gateway, deposit_nano = network.accounts["gateway"].account, network.plan.funds.deposit
    providers = [network.accounts[name].account for name in network.accounts.providers]
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    async with ChainRpc([network.rpc_url]) as rpc:
        escrow = EscrowClient(rpc, network.deployment)
        while time.monotonic() < deadline:
            account = await escrow.fetch_account(gateway)
            unswept = await escrow.fetch_unswept(providers)
            if account.deposit_nano == deposit_nano - cost_nano and not any(unswept):
                return
            await asyncio.sleep(0.2)
    paid = deposit_nano - account.deposit_nano
    raise Unavailable(f"after {SETTLE_TIMEOUT_S:.0f} s {paid} of {cost_nano} nano are redeemed: see the nodes' logs")


async def _audit(network: Network) -> dict[str, Any]:
    """Run `steelyard audit` as anyone would, and return its report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "steelyard",
        "audit",
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | network.environment,
    )
    output, errors = await process.communicate()
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        raise ConfigError(f"steelyard audit failed: {errors.decode(errors='replace')[-400:]}") from None
    return report


def _print_calls(console: Console, network: Network, calls: Sequence[DemoCall]) -> None:
    names = {network.accounts[name].account: name for name in network.accounts.providers}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("call", "provider", "in>", "out>", "cost, YARD>", "receipt", "answer"):
        table.add_column(column.rstrip(">"), justify="right" if ">" in column else "left", no_wrap=True)
    for call in calls:
        state = "[green]verified[/]" if not call.problem else f"[red]{call.problem}[/]"
        table.add_row(
            call.label,
            names.get(bytes.fromhex(call.provider[2:]), call.provider[:12]) if call.provider else "",
            str(call.units_in),
            str(call.units_out),
            format_yard(call.cost_nano),
            f"{call.receipt_id[:14]}… {state}",
            call.preview,
        )
    console.print(table)


def _print_balances(console: Console, before: dict[str, int], after: dict[str, int]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("account", "before, YARD", "after, YARD", "change"):
        table.add_column(column, justify="left" if column == "account" else "right")
    for name, amount in before.items():
        change = after[name] - amount
        colour = "green" if change > 0 else "red" if change < 0 else "dim"
        sign = "+" if change > 0 else ""
        table.add_row(name, format_yard(amount), format_yard(after[name]), f"[{colour}]{sign}{format_yard(change)}[/]")
    console.print(table)


def _print_verdict(console: Console, report: dict[str, Any], calls: Sequence[DemoCall], cost_nano: int) -> bool:
    proven = sum(lane["calls"] for lane in report["lanes"])
    redeemed = sum(gateway["redeemed_nano"] for gateway in report["gateways"])
    for finding in report["findings"]:
        console.print(f"{finding['severity']}: {finding['message']}", markup=False)
    console.print(
        f"{proven} calls proven from the blobs, {format_yard(redeemed)} YARD redeemed, "
        f"{format_yard(cost_nano)} YARD charged"
    )
    verdict = report["money_conserved"]
    console.print(f"money conserved: [bold {'green' if verdict == 'yes' else 'red'}]{verdict}[/]")
    is_whole = all(call.problem == "" for call in calls) and proven == len(calls) and redeemed == cost_nano
    return is_whole and verdict == "yes"
