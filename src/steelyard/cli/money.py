"""``steelyard stake``, ``unstake``, ``deposit``, ``withdraw``: putting YARD in, and taking it out again.

1. Amounts are given and shown in YARD; JSON has nano.
2. Taking out takes two commands, with the contract's delay between them; each says from when the second works.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, check_positive, parse_amount, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next
from steelyard.errors import BadRequest, Reverted

if TYPE_CHECKING:
    from steelyard.chain.records import TxReceipt
    from steelyard.cli.settings import Settings

_TOO_EARLY = re.compile(r"Still(?:Waiting|Unbonding|Locked)\(\w+=([0-9]+)\)")
WalletOption = Annotated[
    str | None, typer.Option("--wallet", "-w", help="The wallet that signs, by name; the settings' own by default.")
]
Amount = Annotated[int, typer.Argument(parser=parse_amount, metavar="YARD", help="Amount in YARD, like 12 or 0.5.")]
PANEL = "Money"


class RoleName(StrEnum):
    """What one stakes as."""

    provider = "provider"
    gateway = "gateway"
    validator = "validator"

    @property
    def number(self) -> int:
        """The contract's number for it."""
        return list(RoleName).index(self) + 1

    def default_wallet(self, settings: Settings) -> str:
        """The wallet that has the role by the settings."""
        return {"provider": settings.node.wallet, "gateway": settings.gateway.wallet}.get(self.value, self.value)


RoleArgument = Annotated[RoleName, typer.Argument(metavar="ROLE", help="provider, gateway or validator.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("stake", rich_help_panel=PANEL, epilog=example("steelyard stake provider 1000 --wallet node-1"))(stake)
    app.command(
        "unstake",
        rich_help_panel=PANEL,
        epilog=example("steelyard unstake provider 500 --wallet node-1", "steelyard unstake provider --finish"),
    )(unstake)
    app.command("deposit", rich_help_panel=PANEL, epilog=example("steelyard deposit 100 --wallet gateway"))(deposit)
    withdraw = typer.Typer(
        help="Take a gateway's deposit out: announce it, wait out the delay, finish.", no_args_is_help=True
    )
    withdraw.command("announce", epilog=example("steelyard withdraw announce 50"))(announce)
    withdraw.command("cancel", epilog=example("steelyard withdraw cancel"))(cancel)
    withdraw.command("finish", epilog=example("steelyard withdraw finish"))(finish)
    app.add_typer(withdraw, name="withdraw", rich_help_panel=PANEL, epilog=example("steelyard withdraw announce 50"))


def stake(
    context: typer.Context,
    role: RoleArgument,
    amount: Amount,
    wallet: WalletOption = None,
    is_json: JsonFlag = False,
) -> None:
    """Stake YARD as a provider, gateway or validator; what is staked can be slashed for provable lies."""
    run(_stake(Invocation.of(context), role, check_positive(amount, "amount"), wallet, is_json))


def unstake(
    context: typer.Context,
    role: RoleArgument,
    amount: Annotated[
        int | None, typer.Argument(parser=parse_amount, metavar="[YARD]", help="Amount in YARD to take out.")
    ] = None,
    is_finishing: Annotated[
        bool, typer.Option("--finish", help="Take out all that is unbonding, once the delay is over.")
    ] = False,
    wallet: WalletOption = None,
    is_json: JsonFlag = False,
) -> None:
    """Begin to take stake out, or (--finish) take out what has waited long enough."""
    if is_finishing == (amount is not None):
        raise BadRequest("say either how much to take out or --finish, not both and not neither", param="amount")
    amount_nano = None if amount is None else check_positive(amount, "amount")
    run(_unstake(Invocation.of(context), role, amount_nano, wallet, is_json))


def deposit(
    context: typer.Context,
    amount: Amount,
    gateway: Annotated[
        str | None, typer.Option("--gateway", help="Whose deposit grows: a wallet's name or an address.")
    ] = None,
    wallet: WalletOption = None,
    is_json: JsonFlag = False,
) -> None:
    """Add YARD to a gateway's deposit, from which it pays providers."""
    run(_deposit(Invocation.of(context), check_positive(amount, "amount"), gateway, wallet, is_json))


def announce(context: typer.Context, amount: Amount, wallet: WalletOption = None, is_json: JsonFlag = False) -> None:
    """Announce a withdrawal; from now on no provider extends credit to this gateway."""
    run(_withdraw(Invocation.of(context), "announce", check_positive(amount, "amount"), wallet, is_json))


def cancel(context: typer.Context, wallet: WalletOption = None, is_json: JsonFlag = False) -> None:
    """Take an announced withdrawal back."""
    run(_withdraw(Invocation.of(context), "cancel", 0, wallet, is_json))


def finish(context: typer.Context, wallet: WalletOption = None, is_json: JsonFlag = False) -> None:
    """Take out what was announced, once the delay is over and nothing is owed."""
    run(_withdraw(Invocation.of(context), "finish", 0, wallet, is_json))


async def _stake(invocation: Invocation, role: RoleName, amount_nano: int, wallet: str | None, is_json: bool) -> None:
    from steelyard.chain.registry import Role
    from steelyard.cli.chain_access import open_chain, open_signer

    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet or role.default_wallet(invocation.settings))
        receipt = await chain.registry.stake(signer.sender, Role(role.number), amount_nano)
        held = await chain.registry.fetch_stake(signer.key.account, Role(role.number))
        least = await chain.registry.fetch_min_stake(Role(role.number))
    if is_json:
        print_json({"tx": receipt.tx_hash, "account": signer.key.account, "stake_nano": held, "least_nano": least})
        return
    print_line(f"{signer.name} now has {_yard(held)} YARD staked as {role.value}; the least is {_yard(least)}")
    if held < least:
        print_next(f"steelyard stake {role.value} {_yard(least - held)} --wallet {signer.name}")
    elif role is RoleName.provider:
        print_next(f"steelyard offer set SERVICE --price-in 0.1 --price-out 0.4 --wallet {signer.name}")
    elif role is RoleName.gateway:
        print_next(f"steelyard deposit 100 --wallet {signer.name}")


async def _unstake(
    invocation: Invocation, role: RoleName, amount_nano: int | None, wallet: str | None, is_json: bool
) -> None:
    from steelyard.chain.registry import Role
    from steelyard.cli.chain_access import open_chain, open_signer

    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet or role.default_wallet(invocation.settings))
        number = Role(role.number)
        if amount_nano is None:
            receipt = await _told_when(chain.registry.finish_unbond(signer.sender, number), "the stake")
        else:
            receipt = await chain.registry.start_unbond(signer.sender, number, amount_nano)
        held = await chain.registry.fetch_stake(signer.key.account, number)
        leaving = await chain.registry.fetch_unbonding(signer.key.account, number)
    if is_json:
        said = {"unbonding_nano": leaving.amount_nano, "ready_at_s": leaving.ready_at_s}
        print_json({"tx": receipt.tx_hash, "account": signer.key.account, "stake_nano": held, **said})
        return
    print_line(f"{signer.name} has {_yard(held)} YARD staked as {role.value}, {_yard(leaving.amount_nano)} unbonding")
    if leaving.amount_nano:
        print_next(
            f"after {_clock(leaving.ready_at_s)}: steelyard unstake {role.value} --finish --wallet {signer.name}"
        )
    else:
        print_next(f"steelyard wallet show {signer.name}")


async def _deposit(
    invocation: Invocation, amount_nano: int, gateway: str | None, wallet: str | None, is_json: bool
) -> None:
    from steelyard.cli.chain_access import open_chain, open_signer

    settings = invocation.settings
    account = invocation.find_account(gateway or settings.gateway.wallet)
    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet or settings.gateway.wallet)
        receipt = await chain.escrow.deposit(signer.sender, account, amount_nano)
        state = await chain.escrow.fetch_account(account)
    if is_json:
        said = {"deposit_nano": state.deposit_nano, "owed_nano": state.owed_nano}
        print_json({"tx": receipt.tx_hash, "gateway": account, **said})
        return
    print_line(f"the deposit of 0x{account.hex()} is now {_yard(state.deposit_nano)} YARD")
    if state.owed_nano:
        print_line(f"{_yard(state.owed_nano)} YARD of it are owed to providers, paid when they redeem again")
    print_next("steelyard keys create my-app --budget 5")


async def _withdraw(invocation: Invocation, step: str, amount_nano: int, wallet: str | None, is_json: bool) -> None:
    from steelyard.cli.chain_access import open_chain, open_signer

    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet or invocation.settings.gateway.wallet)
        if step == "announce":
            receipt = await chain.escrow.announce_withdrawal(signer.sender, amount_nano)
        elif step == "cancel":
            receipt = await chain.escrow.cancel_withdrawal(signer.sender)
        else:
            receipt = await _told_when(chain.escrow.withdraw(signer.sender), "the withdrawal")
        state = await chain.escrow.fetch_account(signer.key.account)
    said: dict[str, Any] = {
        "deposit_nano": state.deposit_nano,
        "withdrawal_nano": state.withdrawal_nano,
        "withdrawal_at_s": state.withdrawal_at_s,
        "owed_nano": state.owed_nano,
    }
    if is_json:
        print_json({"tx": receipt.tx_hash, "gateway": signer.key.account, **said})
        return
    print_line(
        f"{signer.name} has {_yard(state.deposit_nano)} YARD deposited, {_yard(state.withdrawal_nano)} announced"
    )
    if step == "announce":
        print_next(f"after {_clock(state.withdrawal_at_s)}: steelyard withdraw finish --wallet {signer.name}")
    else:
        print_next(f"steelyard wallet show {signer.name}")


async def _told_when(sending: Awaitable[TxReceipt], what: str) -> TxReceipt:
    try:
        return await sending
    except Reverted as error:
        waiting = _TOO_EARLY.match(error.reason)
        if waiting is None:
            raise
        when = _clock(int(waiting[1]))
        raise Reverted(f"{what} can be taken from {when} on: wait until then", reason=error.reason) from error


def _yard(nano: int) -> str:
    from steelyard.protocol.pricing import format_yard

    return format_yard(nano)


def _clock(time_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))
