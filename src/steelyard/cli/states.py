"""``steelyard status`` and ``steelyard config show``: what runs, and which settings it would run with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import SteelyardError

if TYPE_CHECKING:
    from steelyard.cli.settings import Settings


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
    """Show whether chain and gateway answer, which models are on sale, and this home's wallets."""
    said = run(_status(Invocation.of(context).settings))
    if is_json:
        print_json(said)
        return
    chain, gateway = said["chain"], said["gateway"]
    rows = [
        ("home", said["home"]),
        ("chain", _chain_text(chain)),
        ("gateway", f"{gateway['url']}: {gateway['state']}"),
        ("models", ", ".join(gateway["models"]) or "none"),
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


async def _status(settings: Settings) -> dict[str, Any]:
    from steelyard.cli.wallets import list_wallets

    return {
        "home": str(settings.home),
        "chain": await _chain_state(settings),
        "gateway": await _gateway_state(f"http://{settings.gateway.host}:{settings.gateway.port}"),
        "wallets": list(list_wallets(settings.keys_folder)),
    }


async def _chain_state(settings: Settings) -> dict[str, Any]:
    from steelyard.chain.deployment import Deployment
    from steelyard.chain.rpc import ChainRpc

    try:
        deployment = Deployment.load(settings.deployment_file)
        async with ChainRpc(settings.chain.rpc_urls, chain_id=deployment.chain_id, rounds=1, timeout_s=5) as rpc:
            block = await rpc.block_number()
    except SteelyardError as error:
        return {"state": "down", "reason": error.message}
    return {"state": "up", "chain_id": deployment.chain_id, "block": block, "deployment": deployment.salt}


async def _gateway_state(url: str) -> dict[str, Any]:
    import aiohttp

    said: dict[str, Any] = {"url": url, "state": "down", "models": []}
    try:
        timeout = aiohttp.ClientTimeout(total=3)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{url}/readyz") as response:
                said["state"] = "ready" if response.status == 200 else f"not ready (HTTP {response.status})"
            async with session.get(f"{url}/v1/network") as response:
                body = await response.json(content_type=None) if response.status == 200 else {}
            said["models"] = [str(m.get("id", m)) if isinstance(m, dict) else str(m) for m in body.get("models", [])]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        if said["state"] == "down":
            said["reason"] = str(error) or type(error).__name__
    return said


def _chain_text(chain: dict[str, Any]) -> str:
    if chain["state"] != "up":
        return f"down: {chain['reason']}"
    return f"up: chain {chain['chain_id']}, block {chain['block']}, deployment 0x{chain['deployment'].hex()[:12]}…"
