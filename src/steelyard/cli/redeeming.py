"""``steelyard redeem``: a provider turns its vouchers into money now, instead of when the node would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import ConfigError

if TYPE_CHECKING:
    from steelyard.chain.escrow import Redemption


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "redeem", rich_help_panel="Money", epilog=example("steelyard redeem", "steelyard redeem --wallet node-2")
    )(redeem)


def redeem(
    context: typer.Context,
    wallet: Annotated[str | None, typer.Option("--wallet", "-w", help="The provider's wallet.")] = None,
    database: Annotated[str | None, typer.Option("--database", help="The node's database URL.")] = None,
    is_json: JsonFlag = False,
) -> None:
    """Redeem every voucher that a provider holds: publish the calls behind them, be paid, sweep the shares."""
    invocation = Invocation.of(context)
    invocation.override("node", wallet=wallet, database=database)
    file = invocation.settings.node_database.removeprefix("sqlite:///")
    if "://" not in file and not Path(file).exists():
        raise ConfigError(f"no node of {invocation.settings.node.wallet} ran here: there is no database at {file}")
    done = run(_redeem(invocation))
    if is_json:
        print_json([_as_json(redemption) for redemption in done])
        return
    if not done:
        print_line(f"{invocation.settings.node.wallet} holds no voucher that is not paid")
        print_next("steelyard status")
        return
    from steelyard.protocol.pricing import format_yard

    rows = [
        ("0x" + lane.lane_key.hex(), str(lane.count), format_yard(lane.cumulative_nano), format_yard(lane.paid_nano))
        for redemption in done
        for lane in redemption.redeemed
    ]
    print_table(["lane", "calls>", "total>", "paid now>"], rows)
    for redemption in done:
        for skip in redemption.skipped:
            print_line(f"skipped lane 0x{skip.lane_key.hex()}: {skip.reason.name.lower().replace('_', ' ')}")
    print_line(f"paid {format_yard(sum(redemption.paid_nano for redemption in done))} YARD, split by each service")
    print_next(f"steelyard wallet show {invocation.settings.node.wallet}", "steelyard audit")


async def _redeem(invocation: Invocation) -> list[Redemption]:
    from steelyard.cli.node_wiring import open_node_parts
    from steelyard.node.node import Node

    def crash(error: BaseException) -> None:
        raise error

    async with open_node_parts(invocation, crash, is_serving=False) as (parts, _):
        node = Node(parts)
        await node.open()
        return await node.redeemer.redeem_all()


def _as_json(redemption: Redemption) -> dict[str, object]:
    return {
        "tx": redemption.receipt.tx_hash,
        "paid_nano": redemption.paid_nano,
        "lanes": [
            {"lane": lane.lane_key, "cumulative_nano": lane.cumulative_nano, "paid_nano": lane.paid_nano}
            for lane in redemption.redeemed
        ],
        "skipped": [{"lane": skip.lane_key, "reason": skip.reason.name.lower()} for skip in redemption.skipped],
    }
