"""``steelyard keys``: who may call the gateway, how often, and for how much.

1. They work on the gateway's database, while it runs or not; a revoked key is refused within a second.
2. The secret is shown once.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, parse_amount, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import BadRequest

if TYPE_CHECKING:
    from steelyard.storage.database import Database
    from steelyard.storage.keys import ApiKey

_DURATION = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Name = Annotated[str, typer.Argument(help="The key's name or id.")]
Budget = Annotated[
    int | None,
    typer.Option("--budget", parser=parse_amount, metavar="YARD", help="All it may ever spend, in YARD."),
]
Rate = Annotated[int | None, typer.Option("--rate", min=1, metavar="N", help="Requests per minute.")]
Expiry = Annotated[str | None, typer.Option("--expires", metavar="TIME", help="Lives so long: 30m, 12h, 7d, 4w.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="API keys of this home's gateway.", no_args_is_help=True)
    group.command("create", epilog=example("steelyard keys create my-app --budget 5 --rate 600 --expires 30d"))(create)
    group.command("list", epilog=example("steelyard keys list", "steelyard keys list --json"))(show_all)
    group.command("revoke", epilog=example("steelyard keys revoke my-app"))(revoke)
    shown = ("steelyard keys limit my-app --budget 20", "steelyard keys limit my-app --no-rate")
    group.command("limit", epilog=example(*shown))(limit)
    app.add_typer(group, name="keys", rich_help_panel="Running a part of it", epilog=example("steelyard keys list"))


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What people call it, like my-app.")],
    budget: Budget = None,
    rate: Rate = None,
    expires: Expiry = None,
    is_json: JsonFlag = False,
) -> None:
    """Make a key; its secret is shown now and never again."""

    async def work() -> None:
        from steelyard.storage.keys import create_key

        async with open_gateway_database(Invocation.of(context)) as database:
            key, secret = await create_key(
                database,
                name,
                limit_nano=budget,
                requests_per_minute=rate,
                expires_ms=_expiry_ms(expires),
                now_ms=_now_ms(),
            )
        if is_json:
            print_json({**_as_json(key), "secret": secret})
            return
        print_line(secret)
        print_next(
            "keep it: it is not shown again",
            'steelyard chat "hello" --api-key KEY',
            "steelyard keys list",
        )

    run(work())


def show_all(context: typer.Context, is_json: JsonFlag = False) -> None:
    """List all keys with their budgets."""

    async def work() -> None:
        from steelyard.storage.keys import list_keys

        async with open_gateway_database(Invocation.of(context)) as database:
            keys = await list_keys(database)
        if is_json:
            print_json([_as_json(key) for key in keys])
            return
        if not keys:
            print_line("there is no key yet")
            print_next("steelyard keys create my-app --budget 5")
            return
        columns = ["name", "key", "state", "budget>", "spent>", "held>", "per minute>"]
        print_table(columns, [_cells(key) for key in keys])

    run(work())


def revoke(context: typer.Context, name: Name, is_json: JsonFlag = False) -> None:
    """End a key for good; running gateways refuse it within a second."""

    async def work() -> None:
        from steelyard.storage.keys import revoke_key

        async with open_gateway_database(Invocation.of(context)) as database:
            key = await revoke_key(database, name, now_ms=_now_ms())
        if is_json:
            print_json(_as_json(key))
            return
        print_line(f"{key.name} ({key.prefix}…) is revoked")
        print_next("steelyard keys list")

    run(work())


def limit(
    context: typer.Context,
    name: Name,
    budget: Budget = None,
    no_budget: Annotated[bool, typer.Option("--no-budget", help="Lift the budget.")] = False,
    rate: Rate = None,
    no_rate: Annotated[bool, typer.Option("--no-rate", help="Lift the rate limit.")] = False,
    expires: Expiry = None,
    no_expiry: Annotated[bool, typer.Option("--no-expiry", help="Never expires.")] = False,
    is_json: JsonFlag = False,
) -> None:
    """Change what a key may spend, how often it may call, or how long it lives."""
    changes: dict[str, Any] = {}
    for field, value, is_lifted, flag in (
        ("limit_nano", budget, no_budget, "budget"),
        ("requests_per_minute", rate, no_rate, "rate"),
        ("expires_ms", _expiry_ms(expires), no_expiry, "expires"),
    ):
        if value is not None and is_lifted:
            raise BadRequest(f"say either --{flag} or that there is none, not both", param=flag)
        if value is not None or is_lifted:
            changes[field] = value
    if not changes:
        raise BadRequest("say what to change: --budget, --rate or --expires", param="budget")

    async def work() -> None:
        from steelyard.storage.keys import limit_key

        async with open_gateway_database(Invocation.of(context)) as database:
            key = await limit_key(database, name, **changes)
        if is_json:
            print_json(_as_json(key))
            return
        print_table(["name", "key", "state", "budget>", "spent>", "held>", "per minute>"], [_cells(key)])

    run(work())


@asynccontextmanager
async def open_gateway_database(invocation: Invocation) -> AsyncIterator[Database]:
    """Give the gateway's database that the settings name."""
    from steelyard.storage.database import open_database

    database = await open_database(invocation.settings.gateway_database)
    try:
        yield database
    finally:
        await database.aclose()


def _now_ms() -> int:
    return time.time_ns() // 10**6


def _expiry_ms(text: str | None) -> int | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadRequest(f"{text!r} is no duration: write it like 30m, 12h, 7d or 4w", param="expires")
    return _now_ms() + int(match[1]) * _SECONDS[match[2]] * 1000


def _state(key: ApiKey) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    if key.expires_ms is None:
        return "live"
    if key.expires_ms <= _now_ms():
        return "expired"
    return "until " + time.strftime("%Y-%m-%d %H:%M", time.localtime(key.expires_ms / 1000))


def _cells(key: ApiKey) -> list[str]:
    from steelyard.protocol.pricing import format_yard

    limit_shown = "none" if key.limit_nano is None else format_yard(key.limit_nano)
    rate = "none" if key.requests_per_minute is None else str(key.requests_per_minute)
    spent, held = format_yard(key.spent_nano), format_yard(key.leased_nano)
    return [key.name, key.prefix + "…", _state(key), limit_shown, spent, held, rate]


def _as_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "prefix": key.prefix,
        "state": _state(key).split(" ")[0],
        "limit_nano": key.limit_nano,
        "spent_nano": key.spent_nano,
        "held_nano": key.leased_nano,
        "requests_per_minute": key.requests_per_minute,
        "expires_ms": key.expires_ms,
        "revoked_ms": key.revoked_ms,
        "created_ms": key.created_ms,
    }
