"""``steelyard up`` and ``steelyard down``.

1. `up` starts a supervisor in the background, waits until the network serves, and prints how to use it.
2. The supervisor is `up --foreground`: it owns the processes, and stops all of them when one ends or it is told to.
3. What runs stands in ``network.json`` of the home; a stale file is noticed by its process id.

Law: docs/cli.md, "steelyard up".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from steelyard.cli.invocation import Invocation
from steelyard.cli.local_network import Network, NetworkPlan, choose_ports, open_network
from steelyard.cli.output import print_json
from steelyard.cli.processes import last_line
from steelyard.cli.progress import Steps
from steelyard.errors import ConfigError

STATE_FILE = "network.json"
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0
_STEP = re.compile(r"\[ *[0-9.]+ s\] (.+)")  # how `Steps` says a step where there is no terminal
CHAIN_PORT, HTTP_PORT, LINK_PORT = 8545, 8080, 8090


def run_up(invocation: Invocation, *, providers: int, is_foreground: bool, is_json: bool) -> None:
    """Start the network, or find it running, and print how to use it."""
    home = invocation.home
    state = load_state(home)
    if state is None:
        if is_foreground:
            asyncio.run(_supervise(invocation, providers, is_json))
            return
        state = _start_supervisor(home, providers)
    _print_state(state, is_json=is_json)


def run_down(invocation: Invocation, *, is_json: bool) -> None:
    """Stop the network of this home and wait until it has ended."""
    state = load_state(invocation.home)
    if state is not None:
        os.kill(state["pid"], signal.SIGTERM)
        _wait_gone(state["pid"])
    if is_json:
        print_json({"stopped": state is not None})
    else:
        said = "The network has stopped; steelyard up goes on where it stopped." if state else "No network runs here."
        Console().print(said)


def load_state(home: Path) -> dict[str, Any] | None:
    """Return what `network.json` says of a network that runs, or None."""
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
        os.kill(state["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


async def _supervise(invocation: Invocation, providers: int, is_json: bool) -> None:
    from steelyard.cli.offerings import plan_smollm2

    choose_ports(CHAIN_PORT, HTTP_PORT, LINK_PORT)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with Steps(is_shown=not is_json) as steps:
        services = await plan_smollm2(invocation.settings, steps.progress)
        plan = NetworkPlan(
            home=invocation.home,
            services=services,
            providers=providers,
            chain_port=CHAIN_PORT,
            http_port=HTTP_PORT,
            link_port=LINK_PORT,
        )
        await _until_stopped(plan, stop, steps, is_json=is_json)


async def _until_stopped(plan: NetworkPlan, stop: asyncio.Event, steps: Steps, *, is_json: bool) -> None:
    state_file = plan.home / STATE_FILE
    async with open_network(plan, steps.report) as network:
        state = _state_of(network)
        state_file.write_text(json.dumps(state, indent=1))
        state_file.chmod(0o600)
        steps.end("the network is up")
        _print_state(state, is_json=is_json)
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(network.processes.wait_any_end())
        try:
            done, _ = await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            state_file.unlink(missing_ok=True)
            stopping.cancel()
            ending.cancel()
        if ending in done:
            child = ending.result()
            raise ConfigError(f"{child.name} ended: {last_line(child.log)}; the network was stopped, log: {child.log}")


def _start_supervisor(home: Path, providers: int) -> dict[str, Any]:
    """Start the supervisor in the background, show what it does, and return the network's state."""
    choose_ports(CHAIN_PORT, HTTP_PORT, LINK_PORT)
    log = home / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "steelyard", "--home", str(home), "up", "--foreground"]
    command += ["--providers", str(providers)]
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, env=os.environ
        )
    end = time.monotonic() + START_TIMEOUT_S
    with Steps() as steps:
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
    console.print(f'  python -c "{code}"', markup=False)
    console.print("\n[dim]Next: steelyard chat, steelyard status, steelyard audit; steelyard down stops it.[/]")


def _wait_gone(pid: int) -> None:
    end = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < end:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.1)
            continue
        return
    raise ConfigError(f"the network (process {pid}) did not stop in {STOP_TIMEOUT_S:.0f} s")
