"""``steelyard status`` and ``steelyard config show``: what runs, and which settings it would run with."""

from __future__ import annotations

import json
from typing import Any

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import SteelyardError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status", rich_help_panel="Checking", epilog=example("steelyard status", "steelyard status --json"))(
        status
    )
    config = typer.Typer(help="The effective settings.", no_args_is_help=True)
    config.command("show", epilog=example("steelyard config show", "steelyard config show --json"))(show_config)
    config.callback()(_group)
    app.add_typer(config, name="config", rich_help_panel="Checking", epilog=example("steelyard config show"))


def _group() -> None:
    """The effective settings."""


def status(context: typer.Context, is_json: JsonFlag = False) -> None:
    """Show whether chain and gateway answer, what is registered, and this home's wallets."""
    said = run(_status(Invocation.of(context)))
    if is_json:
        print_json(said)
        return
    chain, gateway = said["chain"], said["gateway"]
    rows = [
        ("home", said["home"]),
        ("chain", _chain_text(chain)),
        ("gateway", f"{gateway['url']}: {gateway['state']}" + (f" ({gateway['reason']})" if gateway["reason"] else "")),
        ("services", ", ".join(chain.get("services", ())) or "none"),
        ("wallets", ", ".join(said["wallets"]) or "none"),
    ]
    print_table(["", ""], rows)
    if chain["state"] != "up":
        print_next("steelyard up", "steelyard doctor")
    else:
        print_next("steelyard services list", "steelyard wallet show", "steelyard audit")


def show_config(context: typer.Context, is_json: JsonFlag = False) -> None:
    """Show every setting with its value and where it comes from; secrets are hidden."""
    from steelyard.cli.settings_file import CONFIG_FILE, show_settings

    invocation = Invocation.of(context)
    shown = show_settings(invocation.settings, invocation.overrides)
    if is_json:
        print_json({setting.key: {"value": setting.value, "source": setting.source} for setting in shown})
        return
    rows = [(s.key, s.value if isinstance(s.value, str) else json.dumps(s.value, default=str), s.source) for s in shown]
    print_table(["setting", "value", "from"], rows)
    print_line(f"change them in {invocation.home / CONFIG_FILE}, or by variables such as STEELYARD_GATEWAY__PORT=8081")


async def _status(invocation: Invocation) -> dict[str, Any]:
    from steelyard.cli.wallets import list_wallets

    settings = invocation.settings
    return {
        "home": str(settings.home),
        "chain": await _chain_state(invocation),
        "gateway": await _gateway_state(_gateway_url(invocation)),
        "wallets": list(list_wallets(settings.keys_folder)),
    }


def _gateway_url(invocation: Invocation) -> str:
    from steelyard.cli.running import load_state

    running = load_state(invocation.home)
    if running is not None:
        return str(running["base_url"]).removesuffix("/v1")
    section = invocation.settings.gateway
    return f"http://{section.host}:{section.port}"


async def _chain_state(invocation: Invocation) -> dict[str, Any]:
    from steelyard.cli.chain_access import open_chain
    from steelyard.cli.market import fetch_directory

    try:
        async with open_chain(invocation) as chain:
            block = await chain.rpc.block_number()
            services = sorted(service.name for service in (await fetch_directory(chain)).services.values())
    except SteelyardError as error:
        return {"state": "down", "reason": error.message}
    known = chain.deployment
    return {"state": "up", "chain_id": known.chain_id, "block": block, "deployment": known.salt, "services": services}


async def _gateway_state(url: str) -> dict[str, Any]:
    import aiohttp

    said: dict[str, Any] = {"url": url, "state": "down", "reason": ""}
    try:
        timeout = aiohttp.ClientTimeout(total=3)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/readyz") as response:
            said["state"] = "ready" if response.status == 200 else "not ready"
            if response.status != 200:
                said["reason"] = "; ".join(map(str, (await response.json())["reasons"]))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
        said["reason"] = str(error) or type(error).__name__
    return said


def _chain_text(chain: dict[str, Any]) -> str:
    if chain["state"] != "up":
        return f"down: {chain['reason']}"
    return f"up: chain {chain['chain_id']}, block {chain['block']}, deployment 0x{chain['deployment'].hex()[:12]}…"
