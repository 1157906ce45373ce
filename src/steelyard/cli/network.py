"""``steelyard up`` and ``steelyard down``.

1. `up` starts a supervisor in the background, waits until the network serves, and prints how to use it.
2. The supervisor is `up --foreground`: it owns the processes, starts a provider again whenever it ends, and stops all
   of them when the chain or the gateway ends or it is told to.
3. Its ports are settings, chosen once: flags, variables, then what the home's ``config.toml`` has from the last time.

Law: docs/cli.md, "steelyard up".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from steelyard.cli.genesis import provider_names
from steelyard.cli.invocation import Invocation
from steelyard.cli.local_network import Network, NetworkPlan, choose_ports, open_network, write_private
from steelyard.cli.output import print_json
from steelyard.cli.processes import last_line
from steelyard.cli.progress import Steps
from steelyard.cli.running import STATE_FILE, claim_home, find_supervisor, load_state
from steelyard.errors import ConfigError

PORT_FLAGS = (("chain", "port", "--chain-port"), ("gateway", "port", "--port"), ("gateway", "link_port", "--link-port"))
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0
_STEP = re.compile(r"\[ *[0-9.]+ s\] (.+)")  # how `Steps` says a step where there is no terminal


def run_up(invocation: Invocation, *, providers: int, is_foreground: bool, is_json: bool) -> None:
    """Start the network, or find it running, and print how to use it."""
    home = invocation.home
    state = load_state(home)
    if state is None:
        if is_foreground:
            with claim_home(home):
                asyncio.run(_supervise(invocation, providers, is_json))
            return
        state = _start_supervisor(invocation, providers, is_quiet=is_json)
    _print_state(state, is_json=is_json)


def run_down(invocation: Invocation, *, is_json: bool) -> None:
    """Stop the network of this home and wait until it has ended."""
    supervisor = find_supervisor(invocation.home)
    if supervisor is not None:
        os.kill(supervisor, signal.SIGTERM)
        _wait_gone(invocation.home, supervisor)
    if is_json:
        print_json({"stopped": supervisor is not None})
    else:
        said = "The network has stopped; steelyard up goes on where it stopped."
        said = said if supervisor is not None else f"No network runs in {invocation.home}."
        Console().print(said)


async def _supervise(invocation: Invocation, providers: int, is_json: bool) -> None:
    from steelyard.cli.offerings import KEPT_FILE, plan_smollm2

    chain_port, http_port, link_port = _choose_ports(invocation)
    (invocation.home / STATE_FILE).unlink(missing_ok=True)  # of a supervisor that was killed
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with Steps(is_shown=not is_json) as steps:
        services = await plan_smollm2(invocation.settings, steps.progress, kept=invocation.home / KEPT_FILE)
        plan = NetworkPlan(
            home=invocation.home,
            services=services,
            providers=providers,
            chain_port=chain_port,
            http_port=http_port,
            link_port=link_port,
        )
        await _until_stopped(plan, stop, steps, is_json=is_json)


async def _until_stopped(plan: NetworkPlan, stop: asyncio.Event, steps: Steps, *, is_json: bool) -> None:
    state_file = plan.home / STATE_FILE
    async with open_network(plan, steps.report) as network:
        _write_state(network)
        steps.end("the network is up")
        _print_state(_state_of(network), is_json=is_json)
        providers = provider_names(plan.providers)
        others = set(network.processes.children) - set(providers)
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(network.processes.wait_any_end(others))
        keeping = [asyncio.create_task(_keep_provider(network, name)) for name in providers]
        try:
            done, _ = await asyncio.wait((stopping, ending, *keeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, ending, *keeping):
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            state_file.unlink(missing_ok=True)
        if ending in done:
            child = ending.result()
            raise ConfigError(
                f"{child.name} ended with status {child.process.returncode}, so the network was stopped; its log, "
                f"{child.log}, ends in: {last_line(child.log)}"
            )
        for task in done.intersection(keeping):
            task.result()


async def _keep_provider(network: Network, name: str) -> None:
    async def start() -> None:
        await network.start_node(name)
        _write_state(network)

    await network.processes.keep(name, start)


def _choose_ports(invocation: Invocation) -> tuple[int, ...]:
    """Return the ports of chain, clients and links that the settings name, a free one for each 0."""
    settings = invocation.settings
    try:
        return choose_ports(settings.chain.port, settings.gateway.port, settings.gateway.link_port)
    except ConfigError as error:
        flags = "--chain-port, --port and --link-port"
        raise ConfigError(f"{error.message}, or choose other ports with {flags}; 0 takes a free one") from error


def _start_supervisor(invocation: Invocation, providers: int, *, is_quiet: bool) -> dict[str, Any]:
    """Start the supervisor in the background, show what it does, and return the network's state."""
    _choose_ports(invocation)
    home = invocation.home
    log = home / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "steelyard", "--home", str(home), "up", "--foreground"]
    command += ["--providers", str(providers)]
    for section, name, flag in PORT_FLAGS:
        if (port := invocation.overrides.get(section, {}).get(name)) is not None:
            command += [flag, str(port)]
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, env=os.environ
        )
    end = time.monotonic() + START_TIMEOUT_S
    with Steps(is_shown=not is_quiet) as steps, _ending_on_interrupt(process):
        while time.monotonic() < end:
            if step := _STEP.fullmatch(last_line(log)):
                steps.report(step[1])
            state = load_state(home)
            if state is not None:
                steps.end("the network is up")
                return state
            if process.poll() is not None:
                raise ConfigError(f"the network did not start: {last_line(log).removeprefix('error: ')}")
            time.sleep(0.2)
    process.terminate()
    raise ConfigError(f"the network did not start in {START_TIMEOUT_S:.0f} s; its log: {log}")


@contextlib.contextmanager
def _ending_on_interrupt(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        process.terminate()
        raise


def _write_state(network: Network) -> None:
    file = network.plan.home / STATE_FILE
    fresh = file.with_suffix(".new")
    write_private(fresh, json.dumps(_state_of(network), indent=1))
    fresh.replace(file)


def _state_of(network: Network) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "base_url": network.base_url,
        "api_key": network.key,
        "rpc_url": network.rpc_url,
        "chain_id": network.deployment.chain_id,
        "models": [service.name for service in network.plan.services],
        "processes": {child.name: child.pid for child in network.processes.children.values()},
        "logs": str(network.settings.logs_folder),
    }


def _print_state(state: dict[str, Any], *, is_json: bool) -> None:
    if is_json:
        print_json(state)
        return
    base_url, key, model = state["base_url"], state["api_key"], state["models"][0]
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]base URL[/]  {base_url}\n[bold]API key[/]   {key}  [dim](development only)[/]")
    console.print(f"[bold]models[/]    {', '.join(state['models'])}\n\n[bold]Paste one of these:[/]")
    body = json.dumps({"model": model, "max_tokens": 40, "messages": [{"role": "user", "content": "Say hello"}]})
    console.print(
        f"  curl {base_url}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
        f"-d '{body}'",
        markup=False,
    )
    question = f"model='{model}', max_tokens=40, messages=[dict(role='user', content='Say hello')]"
    client = f"OpenAI(base_url='{base_url}', api_key='{key}')"
    code = f"from openai import OpenAI; print({client}.chat.completions.create({question}).choices[0].message.content)"
    has_client = find_spec("openai") is not None
    console.print(f'  {_here(sys.executable) if has_client else "python"} -c "{code}"', markup=False)
    if not has_client:
        console.print("  [dim](the second needs the stock client: pip install openai)[/]")
    console.print("\n[dim]Next: steelyard chat, steelyard status, steelyard audit; steelyard down stops it.[/]")
    if line := activation():
        console.print(f"[dim]      {line}[/]")


def activation() -> str:
    """Return the line that puts `steelyard` on the PATH, or "" where it is there already."""
    script = Path(sys.executable).with_name("activate")
    if shutil.which("steelyard") is not None or not script.exists():
        return ""
    return f"first: source {_here(str(script))}, which puts steelyard on this shell's PATH"


def _here(path: str) -> str:
    """Return a path as one would type it here."""
    return shlex.quote(os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path)


def _wait_gone(home: Path, pid: int) -> None:
    end = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < end:
        with contextlib.suppress(ConfigError), claim_home(home):
            return
    raise ConfigError(f"the network (process {pid}) did not stop in {STOP_TIMEOUT_S:.0f} s")
