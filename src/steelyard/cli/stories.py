"""``steelyard up``, ``down`` and ``demo``: the network on this machine; their work is in `network` and `demo`."""

from __future__ import annotations

import importlib
from typing import Annotated, Literal

import typer

from steelyard.cli.invocation import Invocation
from steelyard.cli.output import JsonFlag, example

Story = Literal["money", "trust"]
Providers = Annotated[int, typer.Option("--providers", min=1, max=16, help="How many providers serve the model.")]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="For clients: gateway.port; 0 takes a free one.")
]
LinkPort = Annotated[
    int | None, typer.Option("--link-port", min=0, max=65535, help="For nodes: gateway.link_port; 0 takes a free one.")
]
ChainPort = Annotated[
    int | None, typer.Option("--chain-port", min=0, max=65535, help="Of the chain: chain.port; 0 takes a free one.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "The whole network on this machine"
    app.command("demo", rich_help_panel=panel, epilog=example("steelyard demo", "steelyard demo trust"))(demo)
    app.command("up", rich_help_panel=panel, epilog=example("steelyard up", "steelyard up --providers 1 --port 8081"))(
        up
    )
    app.command("down", rich_help_panel=panel, epilog=example("steelyard down"))(down)


def demo(
    context: typer.Context,
    story: Annotated[Story, typer.Argument(help="What to show: how money flows, or how cheats are caught.")] = "money",
    providers: Annotated[
        int | None, typer.Option("--providers", min=1, max=16, help="How many honest providers; 3, or 2 among cheats.")
    ] = None,
) -> None:
    """Run the whole loop for real, print what happened, and stop: chain, gateway, providers, calls, payment, audit.

    The story `trust` adds validators and two cheats, who are caught, judged, slashed and put out of work.
    """
    invocation = Invocation.of(context)
    if story == "trust":
        importlib.import_module("steelyard.cli.demo_trust").run_trust(invocation, honest=providers or 2)
    else:
        importlib.import_module("steelyard.cli.demo").run_demo(invocation, providers=providers or 3)


def up(
    context: typer.Context,
    providers: Providers = 3,
    port: Port = None,
    link_port: LinkPort = None,
    chain_port: ChainPort = None,
    is_foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop everything at Ctrl-C.")] = False,
    is_json: JsonFlag = False,
) -> None:
    """Start the network and keep it running; prints the base URL, a development key and two lines to paste."""
    invocation = Invocation.of(context)
    invocation.override("gateway", port=port, link_port=link_port)
    invocation.override("chain", port=chain_port)
    importlib.import_module("steelyard.cli.network").run_up(
        invocation, providers=providers, is_foreground=is_foreground, is_json=is_json
    )


def down(context: typer.Context, is_json: JsonFlag = False) -> None:
    """Stop the network that `steelyard up` started; nothing is lost."""
    importlib.import_module("steelyard.cli.network").run_down(Invocation.of(context), is_json=is_json)
