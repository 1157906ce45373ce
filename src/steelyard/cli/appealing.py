"""``steelyard cases``: what is before the court, and appealing against a conviction.

1. Reading needs no wallet. An appeal is the convicted account's own, with a bond, while the time for it runs; until the
   second panel has judged, nothing is slashed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import BadRequest

if TYPE_CHECKING:
    from steelyard.chain.cases import Case

WalletOption = Annotated[str | None, typer.Option("--wallet", "-w", help="Only cases against or by this wallet.")]
SignerOption = Annotated[
    str | None, typer.Option("--wallet", "-w", help="The convicted wallet. Default: the node's wallet.")
]
SHOWN = 50
"""The newest cases that a list shows."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    cases = typer.Typer(help="What is before the court.", no_args_is_help=True)
    cases.command("list", epilog=example("steelyard cases list", "steelyard cases list --wallet node-1"))(show_all)
    cases.command("appeal", epilog=example("steelyard cases appeal 3", "steelyard cases appeal 3 --wallet node-1"))(
        appeal
    )
    app.add_typer(cases, name="cases", rich_help_panel="Checking", epilog=example("steelyard cases list"))


def show_all(context: typer.Context, wallet: WalletOption = None, is_json: JsonFlag = False) -> None:
    """List the newest cases: against whom, by whom, where they stand, and until when one can appeal."""
    said = run(_list(Invocation.of(context), wallet))
    if is_json:
        print_json(said)
        return
    if not said:
        print_line("there is no case" + (f" against or by {wallet}" if wallet else ""))
        return
    rows = [
        (str(one["case"]), one["kind"], one["accused"], one["challenger"], _state_text(one, time.time()))
        for one in said
    ]
    print_table(["case>", "kind", "accused", "challenger", "state"], rows)
    for one in said:
        if one["state"] == "convicted":
            print_next(f"before {_clock(one['appeal_until_s'])}: steelyard cases appeal {one['case']} --wallet NAME")


def appeal(
    context: typer.Context,
    case: Annotated[int, typer.Argument(min=1, metavar="CASE", help="The case's number.")],
    wallet: SignerOption = None,
    is_json: JsonFlag = False,
) -> None:
    """Appeal against a conviction, with a bond: a larger panel judges anew, and until then nothing is lost."""
    said = run(_appeal(Invocation.of(context), case, wallet))
    if is_json:
        print_json(said)
        return
    from steelyard.protocol.pricing import format_yard

    print_line(
        f"{said['wallet']} appealed against case {case} with a bond of {format_yard(said['bond_nano'])} YARD, which "
        f"comes back unless {said['quorum']} of {said['seats']} seats convict again"
    )
    print_next("steelyard cases list")


async def _list(invocation: Invocation, wallet: str | None) -> list[dict[str, Any]]:
    from steelyard.chain.court import CourtClient
    from steelyard.cli.chain_access import open_chain

    async with open_chain(invocation) as chain:
        account = invocation.find_account(wallet) if wallet else None
        court = CourtClient(chain.rpc, chain.deployment)
        found = await court.fetch_cases(range(1, await court.fetch_case_count() + 1))
    return [
        _as_json(number, case)
        for number, case in enumerate(found, start=1)
        if account is None or account in (case.accused, case.challenger)
    ][-SHOWN:]


async def _appeal(invocation: Invocation, number: int, wallet: str | None) -> dict[str, Any]:
    from steelyard.chain.cases import Phase
    from steelyard.chain.court import CourtClient
    from steelyard.cli.chain_access import open_chain, open_signer

    async with open_chain(invocation) as chain:
        name = wallet or invocation.settings.node.wallet
        court = CourtClient(chain.rpc, chain.deployment)
        [case] = await court.fetch_cases([number])
        if case.phase is Phase.NONE:
            raise BadRequest(f"there is no case {number}: steelyard cases list shows what there is", param="case")
        account = invocation.find_account(name)
        if account != case.accused:
            raise BadRequest(
                f"case {number} is against 0x{case.accused.hex()}, and {name} is 0x{account.hex()}: only who was "
                "convicted appeals (--wallet)",
                param="wallet",
            )
        if case.phase is not Phase.CONVICTED:
            state = _as_json(number, case)["state"]
            raise BadRequest(
                f"case {number} is {state}: only a conviction can be appealed, and only once", param="case"
            )
        terms = await court.fetch_terms()
        signer = open_signer(invocation, chain, name)
        receipt = await court.appeal(signer.sender, number)
    return {
        "tx": receipt.tx_hash,
        "case": number,
        "wallet": name,
        "bond_nano": terms.appeal_bond_nano,
        "quorum": terms.appeal_quorum,
        "seats": terms.appeal_size,
    }


def _as_json(number: int, case: Case) -> dict[str, Any]:
    from steelyard.chain.cases import Phase

    return {
        "case": number,
        "kind": case.kind.name.lower(),
        "accused": "0x" + case.accused.hex(),
        "challenger": "0x" + case.challenger.hex(),
        "topic": case.topic,
        "evidence": case.evidence,
        "state": "closed, " + case.ruling.name.lower() if case.phase is Phase.CLOSED else case.phase.name.lower(),
        "is_appealed": case.is_appealed,
        "opened_at_s": case.opened_at_s,
        "appeal_until_s": case.appeal_until_s,
    }


def _state_text(one: dict[str, Any], now_s: float) -> str:
    text = f"{one['state']}, on appeal" if one["is_appealed"] and "closed" not in one["state"] else str(one["state"])
    if one["state"] != "convicted":
        return text
    until = _clock(one["appeal_until_s"])
    return f"{text}, to be appealed until {until}" if now_s < one["appeal_until_s"] else f"{text}, no appeal came"


def _clock(time_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))
