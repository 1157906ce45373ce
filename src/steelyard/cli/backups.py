"""``steelyard backup`` and ``steelyard restore``: all rows of a gateway's or node's database in one file.

1. A backup needs no stop; a restore needs an empty database, of either kind.
2. Wallets and blobs are files of their own, and are not in it: both commands say so.
"""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next
from steelyard.errors import ConfigError

if TYPE_CHECKING:
    from steelyard.storage.backup import Manifest


class Part(StrEnum):
    """Whose database."""

    gateway = "gateway"
    node = "node"


PartOption = Annotated[Part, typer.Option("--of", help="Whose database: the gateway's or the node's.")]
UrlOption = Annotated[str | None, typer.Option("--database", help="Its URL, if not the settings' own.")]
WalletOption = Annotated[str | None, typer.Option("--wallet", "-w", help="Which node, by its wallet.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "Running a part of it"
    app.command(
        "backup",
        rich_help_panel=panel,
        epilog=example("steelyard backup gateway.tar.gz", "steelyard backup node-1.tar.gz --of node --wallet node-1"),
    )(backup)
    app.command(
        "restore",
        rich_help_panel=panel,
        epilog=example(
            "steelyard restore gateway.tar.gz",
            "steelyard restore gateway.tar.gz --database postgresql://me@localhost/steelyard",
        ),
    )(restore)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A new file; a backup never replaces another.")],
    part: PartOption = Part.gateway,
    wallet: WalletOption = None,
    database: UrlOption = None,
    is_json: JsonFlag = False,
) -> None:
    """Write one snapshot of a database into a new file, while everything runs on."""
    invocation = Invocation.of(context)
    manifest = run(_backup(_find_url(invocation, part, wallet, database), file))
    if is_json:
        print_json({"file": file, "rows": manifest.rows, "created_ms": manifest.created_ms})
        return
    print_line(f"{manifest.rows} rows are in {file}")
    settings = invocation.settings
    print_next(f"keep it with {settings.keys_folder} and {settings.blobs_folder}, which are not in it")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What steelyard backup wrote.")],
    part: PartOption = Part.gateway,
    wallet: WalletOption = None,
    database: UrlOption = None,
    is_json: JsonFlag = False,
) -> None:
    """Fill an empty database from a backup; every byte is verified before anything is written."""
    from steelyard.storage.backup import restore_backup

    invocation = Invocation.of(context)
    manifest = run(restore_backup(_find_url(invocation, part, wallet, database), file))
    if is_json:
        print_json({"file": file, "rows": manifest.rows, "created_ms": manifest.created_ms})
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created_ms / 1000))
    print_line(f"{manifest.rows} rows of {when} are restored")
    if part is Part.node:
        print_line(
            "if this node went on after the backup, do not start it on these lanes: it would sign a second batch under "
            "a number that it has used; redeem what it holds, and start it on a new database"
        )
        print_next(f"steelyard redeem --wallet {invocation.settings.node.wallet}")
    else:
        print_next("steelyard gateway run")


async def _backup(url: str, file: Path) -> Manifest:
    from steelyard.storage.backup import write_backup
    from steelyard.storage.database import open_database, parse_url

    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise ConfigError(f"there is no database at {parsed.database}: see steelyard config show, or give --database")
    database = await open_database(url)
    try:
        return await write_backup(database, file, now_ms=time.time_ns() // 10**6)
    finally:
        await database.aclose()


def _find_url(invocation: Invocation, part: Part, wallet: str | None, database: str | None) -> str:
    invocation.override(part.value, database=database, wallet=wallet)
    settings = invocation.settings
    return settings.gateway_database if part is Part.gateway else settings.node_database
