"""``steelyard doctor``: what on this machine would keep a network from running, and what to do about it.

1. A problem makes the status 1; a note doesn't. Nothing is changed, fetched or started.
2. A port that our own process answers on is no problem.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import ConfigError, SteelyardError

if TYPE_CHECKING:
    from steelyard.cli.settings import Settings

LEAST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 1 << 30
NATIVE_MODULES = ("coincurve", "sha3", "eth", "xllamacpp", "picows")
"""Modules with machine code of their own: tried in another process, since a wrong build ends the process."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was found, and what to do if that is a problem."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        rich_help_panel="Checking",
        epilog=example("steelyard doctor", "steelyard doctor --json | jq '.problems'"),
    )(doctor)


def doctor(context: typer.Context, is_json: JsonFlag = False) -> None:
    """Look at Python, packages, engines, ports, disk, settings, wallets and chain; status 1 if there is a problem."""
    checks = list(_look(Invocation.of(context)))
    problems = [check for check in checks if check.state == "problem"]
    if is_json:
        print_json({"problems": len(problems), "checks": [asdict(check) for check in checks]})
    else:
        print_table(["", "", ""], [(check.state, check.name, check.found) for check in checks])
        for check in problems:
            print_line(f"{check.name}: {check.advice}")
        print_line("no problem found" if not problems else f"{len(problems)} problem(s) found")
        if not problems:
            print_next("steelyard demo", "steelyard up")
    if problems:
        raise typer.Exit(1)


def _look(invocation: Invocation) -> Iterator[Check]:
    yield _check_python()
    yield from _check_packages()
    yield from _check_native()
    yield _check_disk(invocation.home)
    try:
        settings = invocation.settings
    except ConfigError as error:
        yield Check("settings", "problem", error.message, "correct it; the checks that need settings were left out")
        return
    yield Check("settings", "ok", f"home {settings.home}")
    yield _check_weights(settings)
    yield from _check_wallets(settings)
    chain = run(_check_chain(settings))
    yield chain
    yield _check_port("chain port", settings.chain.host, settings.chain.port, is_ours=chain.state == "ok")
    is_gateway_up = run(_answers(f"http://{settings.gateway.host}:{settings.gateway.port}/healthz"))
    yield _check_port("gateway port", settings.gateway.host, settings.gateway.port, is_ours=is_gateway_up)
    yield _check_port("link port", settings.gateway.link_host, settings.gateway.link_port, is_ours=is_gateway_up)


def _check_python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "problem", found, "Steelyard needs Python 3.11 or newer")
    return Check("python", "ok", f"{found} at {sys.executable}")


def _check_packages() -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from steelyard import __version__

    yield Check("steelyard", "ok", __version__)
    for requirement in requires("steelyard") or ():
        extra = requirement.rpartition("extra == ")[2].strip(" \"'") if "extra ==" in requirement else ""
        if extra in ("dev", "peers"):
            continue
        name = "".join(_until(requirement, "[<>=!~; "))
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            advice = "install it: pip install steelyard" + (f"[{extra}]" if extra else "")
            yield Check(name, "note" if extra else "problem", "not installed", advice)


def _until(text: str, ends: str) -> Iterator[str]:
    for character in text:
        if character in ends:
            return
        yield character


def _check_native() -> Iterator[Check]:
    for module in NATIVE_MODULES:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode == 0:
            yield Check(f"import {module}", "ok", "works")
            continue
        reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        is_optional = module in ("xllamacpp",) and "ModuleNotFoundError" in reason
        yield Check(f"import {module}", "note" if is_optional else "problem", reason, f"reinstall {module}")


def _check_disk(home: Path) -> Check:
    place = home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free at {place}"
    if free < LEAST_FREE_BYTES:
        return Check("disk", "problem", found, "free at least 1 GiB, or name another place with --home")
    return Check("disk", "ok", found)


def _check_weights(settings: Settings) -> Check:
    from steelyard.weights.cache import WeightCache
    from steelyard.weights.catalogue import KNOWN_MODELS

    cache = WeightCache(settings.weights_folder)
    here = [model.name for model in KNOWN_MODELS.values() if cache.path_of(model.sha256).is_file()]
    if here:
        return Check("weights", "ok", f"{', '.join(here)} in {cache.folder}")
    return Check("weights", "note", f"none in {cache.folder} yet", "steelyard models pull smollm2-135m")


def _check_wallets(settings: Settings) -> Iterator[Check]:
    from steelyard.cli.wallets import list_wallets

    wallets = list_wallets(settings.keys_folder)
    yield Check("wallets", "ok", ", ".join(wallets) or "none yet")
    for name, info in wallets.items():
        if info is not None and not info.is_development and info.path.stat().st_mode & 0o077:
            found = f"{info.path} can be read by other users"
            yield Check(f"wallet {name}", "problem", found, f"chmod 600 {info.path}")


async def _check_chain(settings: Settings) -> Check:
    from steelyard.chain.deploy import verify_deployment
    from steelyard.chain.deployment import Deployment
    from steelyard.chain.rpc import ChainRpc

    if not settings.deployment_file.exists():
        return Check("chain", "note", f"no deployment at {settings.deployment_file} yet", "steelyard up")
    try:
        deployment = Deployment.load(settings.deployment_file)
        async with ChainRpc(settings.chain.rpc_urls, chain_id=deployment.chain_id, rounds=1, timeout_s=5) as rpc:
            await verify_deployment(rpc, deployment)
            found = f"chain {deployment.chain_id} at block {await rpc.block_number()}, contracts verified"
    except SteelyardError as error:
        return Check("chain", "problem", error.message, "start it (steelyard up), or correct chain.rpc_urls")
    return Check("chain", "ok", found)


async def _answers(url: str) -> bool:
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status < 500
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def _check_port(name: str, host: str, port: int, *, is_ours: bool) -> Check:
    if port == 0:
        return Check(name, "ok", "any free one")
    if is_ours:
        return Check(name, "ok", f"{host}:{port}, in use by ours")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            key = {"chain port": "chain.port", "gateway port": "gateway.port"}.get(name, "gateway.link_port")
            found = f"{host}:{port}: {error.strerror}"
            return Check(name, "problem", found, f"end what uses it, or set {key} to another port")
    return Check(name, "ok", f"{host}:{port} is free")
