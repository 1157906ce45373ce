"""``steelyard calls``: what this home's gateway ordered, what it cost, and the receipt of each call.

1. They read the gateway's database; no prompt and no answer is kept there.
2. People see amounts in YARD and times as a clock shows them; JSON has nano and Unix milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli import call_proofs
from steelyard.cli.invocation import Invocation, run
from steelyard.cli.key_commands import open_gateway_database
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import NotFound

if TYPE_CHECKING:
    from steelyard.storage.calls import CallRow
    from steelyard.storage.database import Database
    from steelyard.storage.lane_rows import StoredBatch

    Placed = tuple[CallRow, tuple[StoredBatch, int] | None]

_AMOUNTS = frozenset({"cost_nano", "cost", "max_cost", "cumulative"})
_PRICES = frozenset({"price_in", "price_out"})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Calls that this home's gateway made, with their receipts.", no_args_is_help=True)
    group.command(
        "list", epilog=example("steelyard calls list --limit 20", "steelyard calls list --key my-app --json")
    )(show_all)
    group.command("show", epilog=example("steelyard calls show call_0123456789abcdef0123456789abcdef"))(show)
    call_proofs.register(group)
    app.add_typer(group, name="calls", rich_help_panel="Checking", epilog=example("steelyard calls list"))


def show_all(
    context: typer.Context,
    key: Annotated[str | None, typer.Option("--key", help="Only calls of this API key, by name or id.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    is_json: JsonFlag = False,
) -> None:
    """List the latest calls, newest first."""
    rows = run(_fetch(Invocation.of(context), key, limit))
    if is_json:
        print_json([describe_call(*row) for row in rows])
        return
    if not rows:
        print_line("no call was made yet")
        print_next('steelyard chat "hello"')
        return
    print_table(
        ["call", "when", "status", "provider", "in>", "out>", "YARD>", "batch>"],
        [_cells(describe_call(*row)) for row in rows],
    )
    print_next(f"steelyard calls show {describe_call(*rows[0])['call_id']}")


def show(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="A call id, like call_0123….")],
    is_json: JsonFlag = False,
) -> None:
    """Show one call: order, receipt, signed batch with the Merkle proof, voucher, and why that provider was asked."""
    found = run(_find(Invocation.of(context), call_id))
    if is_json:
        print_json(found)
        return
    for said in found:
        print_table(["", said["call_id"]], [[name, _text(name, value)] for name, value in _flatten(said)])
    print_table(["provider", "asked", "why"], list(_choices(found)))
    print_next(f"steelyard calls verify {call_id}", "steelyard audit")


def describe_call(row: CallRow, place: tuple[StoredBatch, int] | None) -> dict[str, Any]:
    """Return a call as JSON shows it, with its order and receipt decoded, and the place of its receipt."""
    import msgspec

    from steelyard.protocol.ids import format_call
    from steelyard.protocol.messages import Order, Receipt

    order = msgspec.msgpack.decode(row.order_bytes, type=Order)
    receipt = None if row.receipt_bytes is None else msgspec.msgpack.decode(row.receipt_bytes, type=Receipt)
    return {
        "call_id": format_call(row.call_id),
        "status": row.status,
        "key_id": row.key_id,
        "provider": row.provider,
        "service_id": row.service_id,
        "cost_nano": row.cost_nano,
        "created_ms": row.created_ms,
        "finished_ms": row.finished_ms,
        "lane": row.lane_key,
        "batch_seq": None if place is None else place[0].signed.batch.seq,
        "leaf_index": None if place is None else place[1],
        "salt": row.salt,
        "order_hash": row.order_hash,
        "receipt_id": row.receipt_hash,
        "order": _fields(order),
        "receipt": None if receipt is None else _fields(receipt),
    }


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


async def _fetch(invocation: Invocation, key: str | None, limit: int) -> list[Placed]:
    from steelyard.storage.calls import list_calls
    from steelyard.storage.keys import load_key

    async with open_gateway_database(invocation) as database:
        key_id = None if key is None else (await load_key(database, key)).key_id
        return await _place(database, await list_calls(database, key_id=key_id, limit=limit))


async def _find(invocation: Invocation, call_id: str) -> list[dict[str, Any]]:
    from steelyard.gateway.calls_view import load_proofs
    from steelyard.protocol.ids import parse_call
    from steelyard.storage.calls import find_call

    wanted = parse_call(call_id)
    async with open_gateway_database(invocation) as database:
        rows = await _place(database, await find_call(database, wanted))
        found = [
            {**describe_call(*placed), **await load_proofs(database, placed[0]), "why": _why(placed[0])}
            for placed in rows
        ]
    if not found:
        raise NotFound(f"this gateway made no call {call_id}: see steelyard calls list", param="id")
    return found


def _why(row: CallRow) -> dict[str, Any]:
    """Return how an order's provider was chosen, and who was passed over then."""
    from steelyard.gateway.why import show_why

    shown = show_why([(row.provider, row.status, row.why)])
    (asked,) = shown["asked"]
    return {"how": asked["how"], "reason": asked["reason"], **{key: shown[key] for key in ("passed_over", "more")}}


async def _place(database: Database, rows: list[CallRow]) -> list[Placed]:
    import msgspec

    from steelyard.protocol.messages import Order
    from steelyard.storage.lanes import find_place

    lanes = [msgspec.msgpack.decode(row.order_bytes, type=Order).lane for row in rows]
    return [(row, await find_place(database, lane, row)) for row, lane in zip(rows, lanes, strict=True)]


def _cells(said: dict[str, Any]) -> list[str]:
    from steelyard.protocol.pricing import format_yard

    receipt = said["receipt"] or {}
    units = (receipt.get("units_in"), receipt.get("units_out"))
    shown = ["-" if value is None else str(value) for value in units]
    batch = "-" if said["batch_seq"] is None else str(said["batch_seq"])
    provider = "0x" + said["provider"].hex()
    return [
        said["call_id"],
        _clock(said["created_ms"]),
        said["status"],
        provider,
        *shown,
        format_yard(said["cost_nano"]),
        batch,
    ]


def _choices(found: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Give a row for each order of a call, and for each provider that none went to, with its last reason."""
    passed: dict[str, str] = {}
    more = 0
    for said in found:
        why = said["why"]
        yield [_text("", said["provider"]), why["how"] or "not kept", why["reason"] or said["status"]]
        passed |= {one["provider"]: one["reason"] for one in why["passed_over"]}
        more = why["more"]
    asked = {_text("", said["provider"]) for said in found}
    yield from ([provider, "no", reason] for provider, reason in passed.items() if provider not in asked)
    if more:
        yield [f"{more} more", "no", "-"]


def _flatten(said: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give what a table shows: plain values first, then the parts' fields as ``part.field``, a proof step by step."""
    yield from ((name, value) for name, value in said.items() if not isinstance(value, dict))
    for part, fields in said.items():
        if not isinstance(fields, dict) or part == "why":  # a table of its own
            continue
        for name, value in fields.items():
            if isinstance(value, list):
                yield from ((f"{part}.{name} {number}", step) for number, step in enumerate(value, 1))
                if not value:
                    yield f"{part}.{name}", "empty: the receipt is the batch's only one"
            else:
                yield f"{part}.{name}", value


def _text(name: str, value: Any) -> str:
    from steelyard.protocol.messages import FinishReason, Grade
    from steelyard.protocol.pricing import format_yard

    field = name.partition(".")[2] or name
    if value is None:
        return "-"
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if field in _AMOUNTS:
        return f"{format_yard(value)} YARD"
    if field in _PRICES:
        return f"{format_yard(value)} YARD per 1,000,000 units"
    if field.endswith("_ms"):
        return f"{_clock(value)}.{value % 1000:03d}"
    if field in ("grade", "finish_reason") and isinstance(value, int):
        return (Grade if field == "grade" else FinishReason)(value).name.lower().replace("_", "-")
    return str(value)


def _clock(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ms / 1000))
