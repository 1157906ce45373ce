"""``steelyard demo trust``: two cheats among honest providers, until both are caught, judged, slashed and out of work.

1. Nothing is staged: real nodes (two of them `cheats`), ordinary gateways, users who call them with the stock `openai`
   client, validators that know nobody. Only the court's times are short.
2. The figures come from the chain, from what users saw of their own calls, and from the validators' books.
3. Status 1 unless both cheats were convicted and lost their traffic, and no honest provider lost anything.

Law: docs/cli.md, "steelyard demo".
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

import typer
from rich.console import Console

from steelyard.chain.cases import Case, CaseKind, Phase, Ruling
from steelyard.chain.court import CourtClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.terms import CourtTerms
from steelyard.cli.calibrating import Size, write_null
from steelyard.cli.cheats import CHEATS
from steelyard.cli.demo_figures import Observed, ProviderFigures, collect_figures, print_figures
from steelyard.cli.demo_users import Users
from steelyard.cli.genesis import ServicePlan
from steelyard.cli.invocation import Invocation
from steelyard.cli.local_network import Network, NetworkPlan, open_network
from steelyard.cli.offerings import CHAT, MODEL, plan_smollm2
from steelyard.cli.progress import Steps
from steelyard.errors import Unavailable
from steelyard.protocol.ids import service_id
from steelyard.services.manifest import decode_manifest, manifest_digest
from steelyard.validator.calibrations import Calibrations

GATEWAYS, VALIDATORS = 2, 4
AFTER_CALLS = 16
"""Calls after the last conviction, for the shares of traffic."""
TIMEOUT_S = 600.0
QUICK = Size(answers=160, tokens=64)
"""What is measured where no calibration ships for this machine's engine."""

TERMS = CourtTerms(reveal_s=10, commit_s=20, vote_s=10, appeal_s=8, max_draws=10)
EPOCH_S = 15


def run_trust(invocation: Invocation, *, honest: int) -> None:
    """Run the story and print its table; ends the process with status 1 if anything is amiss."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=150)
    home = Path(tempfile.mkdtemp(prefix="steelyard-trust-"))
    started_s = time.monotonic()
    try:
        figures = asyncio.run(tell_trust(invocation, home, console, honest=honest))
    except BaseException:
        console.print(f"[red]The demo stopped early; its logs are in {home}/logs[/]")
        raise
    is_well = print_figures(console, figures)
    console.print(f"[dim]{time.monotonic() - started_s:.0f} s in all[/]")
    if not is_well:
        console.print(f"[red]Something is amiss; everything is kept in {home}[/]")
        raise typer.Exit(1)
    shutil.rmtree(home, ignore_errors=True)
    console.print("\n[dim]Next: steelyard validator run, to check others' work yourself (docs/spec/validator.md).[/]")


async def tell_trust(
    invocation: Invocation,
    home: Path,
    console: Console,
    *,
    honest: int,
    cheats: tuple[str, ...] = CHEATS,
    after: int = AFTER_CALLS,
) -> list[ProviderFigures]:
    """Run the whole story in a folder and return what came of each provider.

    Args:
        honest, cheats: providers. after: calls after the last conviction, for the shares of traffic.

    Raises:
        Unavailable: a cheat was not convicted in time.
    """
    with Steps(console=console) as steps:
        services = [plan for plan in await plan_smollm2(invocation.settings, steps.progress) if plan.name == CHAT]
        await _calibrate(invocation, home, services[0], steps)
        plan = trust_plan(home, services, honest, cheats)
        async with open_network(plan, steps.report) as network, ChainRpc([network.rpc_url]) as rpc:
            court = CourtClient(rpc, network.deployment)
            before = await _stakes(court, network)
            steps.report("waiting for an epoch for which every validator committed to a secret")
            await _await_secrets(court, rpc, network)
            parts = f"{honest} honest providers, {len(cheats)} cheats, {GATEWAYS} gateways, {VALIDATORS} validators"
            steps.end(f"{parts} are up")
            steps.report("users call, validators check")
            async with Users(network, CHAT) as users:
                cases, challenged_at = await _await_convictions(court, network, users, steps)
                steps.end(f"{' and '.join(plan.programs)} convicted and slashed, after {len(users.calls)} calls")
                steps.report(f"{after} more calls")
                convicted_from = len(users.calls) + users.count
                await users.until(convicted_from + after)
            stakes = await _stakes(court, network)
            seen = Observed(users.calls, challenged_at, convicted_from, cases, before, stakes)
            return await collect_figures(network, service_id(CHAT), seen)


def trust_plan(home: Path, services: list[ServicePlan], honest: int, cheats: tuple[str, ...]) -> NetworkPlan:
    """Return the network of the story: the last providers are the cheats."""
    programs = {
        f"node-{honest + number}": ("-m", "steelyard.cli.cheats", cheat) for number, cheat in enumerate(cheats, 1)
    }
    return NetworkPlan(
        home=home,
        services=services,
        providers=honest + len(cheats),
        gateways=GATEWAYS,
        validators=VALIDATORS,
        node={"redeem_after_s": 1.0},
        gateway={"watch_s": 1.0},
        validator={"poll_s": 1.0, "beat_s": 1.0, "probes_per_hour": 60.0},
        parameters=DeploymentParameters(epoch_s=EPOCH_S, court=TERMS),
        programs=programs,
    )


async def _calibrate(invocation: Invocation, home: Path, service: ServicePlan, steps: Steps) -> None:
    """Measure here, unless a calibration of this very manifest and engine ships."""
    manifest = decode_manifest(service.manifest)
    engine = f"{manifest.engine} {manifest.engine_version}"
    folder = home / "calibrations"
    if Calibrations(folder).find(manifest_digest(service.manifest), engine, engine) is None:
        steps.report(f"no calibration ships for {engine}: measuring {QUICK.answers} honest answers first")
        await write_null(invocation, service.name, MODEL, QUICK, folder / "measured.json", is_quiet=True)
        steps.end("calibrated for this machine's engine")


async def _await_secrets(court: CourtClient, rpc: ChainRpc, network: Network) -> None:
    """Calls before are drawn by nobody."""
    validators = [network.accounts[name].account for name in network.accounts.validators]
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        block = await rpc.block("latest")
        epoch = court.epoch_at(0 if block is None else block.timestamp_s)
        if all(secret.value != bytes(32) for secret in await court.fetch_secrets(validators, epoch)):
            return
        await asyncio.sleep(0.5)
    raise Unavailable(f"not every validator committed to a secret in {TIMEOUT_S:.0f} s: see {network.plan.home}/logs")


async def _stakes(court: CourtClient, network: Network) -> dict[str, int]:
    role = CaseKind.CHEAT.role
    return {
        name: await court.fetch_at_stake(network.accounts[name].account, role) for name in network.accounts.providers
    }


async def _await_convictions(
    court: CourtClient, network: Network, users: Users, steps: Steps
) -> tuple[list[Case], int]:
    """Tell what the court does until each cheat is convicted; return all cases, and the calls before the first one."""
    accused = {network.accounts[name].account for name in network.plan.programs}
    names = {network.accounts[name].account: name for name in network.accounts.providers}
    deadline = time.monotonic() + TIMEOUT_S
    told: dict[int, str] = {}
    challenged_at = 0
    while time.monotonic() < deadline:
        users.check()
        cases = await court.fetch_cases(range(1, await court.fetch_case_count() + 1))
        challenged_at = challenged_at or (len(users.calls) if cases else 0)
        for number, case in enumerate(cases, 1):
            state = _describe(case)
            if told.get(number) != state:
                told[number] = state
                steps.report(f"case {number} against {names[case.accused]}, {len(users.calls)} calls: {state}")
        if accused <= {case.accused for case in cases if case.ruling is Ruling.CONVICTED}:
            users.pause_s = 0.0
            return cases, challenged_at
        if accused <= {case.accused for case in cases}:
            users.pause_s = 1.0  # leaves the machine to those who judge
        await asyncio.sleep(0.5)
    raise Unavailable(f"after {TIMEOUT_S:.0f} s and {len(users.calls)} calls not every cheat is convicted: {told}")


def _describe(case: Case) -> str:
    words = {
        Phase.DRAWING: "opened, its panel is drawn when the epoch's secrets are out",
        Phase.VOTING: "the panel judges",
        Phase.CONVICTED: "convicted, the time to appeal runs",
        Phase.CLOSED: f"closed, {case.ruling.name.lower()}",
    }
    return words.get(case.phase, case.phase.name.lower())
