"""``steelyard wallet``: keystore files of this home, and what their accounts hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, check_positive, parse_amount, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import ChainError, ConfigError

if TYPE_CHECKING:
    from steelyard.chain.keystore import KeystoreInfo
    from steelyard.cli.chain_access import ChainAccess

GAS_WEI = 10**18
COMFORTABLE_NANO = 1_000 * 10**9
"""What the stake that hints suggest takes."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Make wallets, see what they hold, and fund them.", no_args_is_help=True)
    group.command("new", epilog=example("steelyard wallet new me", "STEELYARD_PASSPHRASE=… steelyard wallet new me"))(
        new
    )
    group.command("show", epilog=example("steelyard wallet show", "steelyard wallet show me --json"))(show)
    group.command("fund", epilog=example("steelyard wallet fund me 2000", "steelyard wallet fund 0x… 5 --from me"))(
        fund
    )
    app.add_typer(group, name="wallet", rich_help_panel="Money", epilog=example("steelyard wallet new me"))


def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name in this home, like me or node-2.")],
    is_development: Annotated[
        bool, typer.Option("--dev", help="A marked key without a passphrase, for the embedded chain only.")
    ] = False,
    is_json: JsonFlag = False,
) -> None:
    """Make a new key and keep it in an encrypted keystore file (V3); asks for a passphrase."""
    import os

    from steelyard.chain.keystore import create_key, passphrase_reader, save_keystore

    invocation = Invocation.of(context)
    path = invocation.settings.keystore(name)
    if path.exists():
        raise ConfigError(f"there is a wallet {name} already, {path}: choose another name; a key is never overwritten")
    passphrase = "" if is_development else _choose_passphrase(passphrase_reader(os.environ), dict(os.environ))
    info = save_keystore(path, create_key(), passphrase, is_development=is_development)
    if is_json:
        print_json({"name": name, "account": info.account, "file": path, "development": is_development})
        return
    print_line(f"wallet {name}: 0x{info.account.hex()}")
    print_line(f"kept in {path}" + ("; for the embedded chain only" if is_development else ""))
    steps = [f"steelyard wallet fund {name} 2000"]
    if not is_development:
        steps.append(f"keep a copy of {path} and of its passphrase: nobody can bring them back")
    print_next(*steps)


def show(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A wallet's name or an address; all wallets by default.")] = None,
    is_json: JsonFlag = False,
) -> None:
    """Show accounts and what they hold: wallet, stake, deposit, shares to sweep, and gas."""
    invocation = Invocation.of(context)
    if name is None:
        found = list_wallets(invocation.settings.keys_folder)
    elif name.startswith("0x"):
        found = {name: None}
    else:
        from steelyard.chain.keystore import load_keystore_info

        found = {name: load_keystore_info(invocation.settings.keystore(name))}
    rows, problem = run(_fetch_holdings(invocation, found))
    if is_json:
        print_json({"wallets": rows, "chain": problem or "ok"})
        return
    if not rows:
        print_line(f"there is no wallet in {invocation.settings.keys_folder}")
        print_next("steelyard wallet new me")
        return
    columns = ["name", "account", "YARD>", "staked>", "deposit>", "to sweep>", "gas>"]
    print_table(columns, [_cells(row) for row in rows])
    if problem:
        print_line(f"balances are unknown: {problem}")
    elif any(row["development"] for row in rows):
        print_next("development wallets work on the embedded chain only; for another: steelyard wallet new NAME")


def fund(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whom to fund: a wallet's name or an address.")],
    amount: Annotated[int, typer.Argument(parser=parse_amount, metavar="YARD", help="Amount in YARD, like 50 or 0.5.")],
    source: Annotated[str, typer.Option("--from", help="The wallet that pays, by name.")] = "deployer",
    gas: Annotated[bool, typer.Option("--gas/--no-gas", help="Also send a little of the chain's gas coin.")] = True,
    is_json: JsonFlag = False,
) -> None:
    """Send YARD (and some gas) to a wallet; on a development chain from its treasury."""
    run(_fund(Invocation.of(context), name, check_positive(amount, "amount"), source, gas, is_json))


def list_wallets(folder: Path) -> dict[str, KeystoreInfo | None]:
    """Return the keystore files of a folder by their names; what isn't one is passed over."""
    from steelyard.chain.keystore import load_keystore_info

    found: dict[str, KeystoreInfo | None] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = load_keystore_info(path)
        except ConfigError:
            continue
    return found


def _choose_passphrase(read: Any, environment: dict[str, str]) -> str:
    passphrase: str = read("New passphrase")
    asked = not {"STEELYARD_PASSPHRASE", "STEELYARD_PASSPHRASE_FILE"} & environment.keys()
    if asked and read("The same again") != passphrase:
        raise ConfigError("the two passphrases differ: nothing was made, try again")
    return passphrase


async def _fetch_holdings(
    invocation: Invocation, found: dict[str, KeystoreInfo | None]
) -> tuple[list[dict[str, Any]], str]:
    from steelyard.cli.chain_access import open_chain

    rows: list[dict[str, Any]] = [
        {
            "name": name if info else "",
            "account": info.account if info else invocation.find_account(name),
            "development": bool(info and info.is_development),
        }
        for name, info in found.items()
    ]
    if not rows:
        return rows, ""
    try:
        async with open_chain(invocation) as chain:
            for row in rows:
                row.update(await fetch_holding(chain, row["account"]))
    except (ConfigError, ChainError) as error:
        return rows, error.message
    return rows, ""


async def fetch_holding(chain: ChainAccess, account: bytes) -> dict[str, Any]:
    """Return what an account holds, in nano (and gas in wei), under the names that JSON shows."""
    from steelyard.chain.registry import Role

    stakes = {
        role.name.lower(): await chain.registry.fetch_stake(account, role)
        for role in (Role.PROVIDER, Role.GATEWAY, Role.VALIDATOR)
    }
    state = await chain.escrow.fetch_account(account)
    (unswept,) = await chain.escrow.fetch_unswept([account])
    return {
        "wallet_nano": await chain.yard.fetch_balance(account),
        "stakes_nano": stakes,
        "deposit_nano": state.deposit_nano,
        "owed_nano": state.owed_nano,
        "unswept_nano": unswept,
        "gas_wei": await chain.rpc.balance(account),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    from steelyard.protocol.pricing import format_yard

    name = (row["name"] or "-") + (" (dev)" if row["development"] else "")
    if "wallet_nano" not in row:
        return [name, f"0x{row['account'].hex()}", "?", "?", "?", "?", "?"]
    amounts = (row["wallet_nano"], sum(row["stakes_nano"].values()), row["deposit_nano"], row["unswept_nano"])
    gas_milli = row["gas_wei"] // 10**15
    return [name, f"0x{row['account'].hex()}", *map(format_yard, amounts), f"{gas_milli / 1000:.3f}"]


async def _fund(invocation: Invocation, name: str, amount_nano: int, source: str, is_gas: bool, is_json: bool) -> None:
    from steelyard.cli.chain_access import open_chain, open_signer
    from steelyard.protocol.pricing import NANO_PER_YARD, format_yard

    account = invocation.find_account(name)
    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, source)
        if is_gas and await chain.rpc.balance(account) < GAS_WEI // 10:
            await signer.sender.send(account, value_wei=GAS_WEI, what="sending gas")
        receipt = await chain.yard.transfer(signer.sender, account, amount_nano)
        held = await chain.yard.fetch_balance(account)
    if is_json:
        print_json({"tx": receipt.tx_hash, "account": account, "wallet_nano": held})
        return
    print_line(f"0x{account.hex()} holds {format_yard(held)} YARD")
    if name.startswith("0x"):
        print_next(f"steelyard wallet show {name}")
    elif held >= COMFORTABLE_NANO:
        print_next(f"steelyard stake provider 1000 --wallet {name}", f"steelyard deposit 100 --wallet {name}")
    else:
        print_next(f"steelyard deposit {format_yard(min(held, 100 * NANO_PER_YARD))} --wallet {name}")
