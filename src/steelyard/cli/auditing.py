"""``steelyard audit``: is money conserved? Rebuilt from chain and blobs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steelyard.audit.report import AuditReport
    from steelyard.audit.selection import SelectionRow

BLOCK_TAGS = ("earliest", "latest", "safe", "finalized")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "audit",
        rich_help_panel="Checking",
        epilog=example("steelyard audit", "steelyard audit --json | jq .money_conserved"),
    )(audit)


def audit(
    context: typer.Context,
    from_block: Annotated[
        int | None, typer.Option("--from-block", min=0, help="First block to read; at most the deployment's own.")
    ] = None,
    block: Annotated[
        str, typer.Option("--block", help="Block to audit as of: a number, latest, safe or finalized.")
    ] = "latest",
    is_json: JsonFlag = False,
) -> None:
    """Rebuild every balance and every paid call from chain and blobs alone.

    Ends with status 0 if money is conserved, 1 if not, 3 if that can't be proven because a blob is missing.
    """
    report = run(_audit(Invocation.of(context), from_block, block, is_quiet=is_json))
    if is_json:
        print_json(report.to_json())
    else:
        _print_report(report)
    raise typer.Exit(report.exit_status)


async def _audit(invocation: Invocation, from_block: int | None, block: str, *, is_quiet: bool) -> AuditReport:
    from rich.console import Console
    from rich.progress import Progress

    from steelyard.audit.run import run_audit
    from steelyard.chain.deployment import Deployment
    from steelyard.chain.rpc import ChainRpc
    from steelyard.storage.blobs import FolderBlobs

    settings = invocation.settings
    deployment = Deployment.load(settings.deployment_file)
    blobs = FolderBlobs(settings.blobs_folder)
    tag = int(block) if block.isdigit() else block
    if isinstance(tag, str) and tag not in BLOCK_TAGS:
        raise BadRequest(f"{block!r} is no block: give a number, or one of {', '.join(BLOCK_TAGS)}", param="block")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=is_quiet or not console.is_terminal) as bar:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"reading {what}", total=total)
            bar.update(tasks[what], completed=done, total=total)

        async with ChainRpc(settings.chain.rpc_urls, chain_id=deployment.chain_id) as rpc:
            return await run_audit(rpc, deployment, blobs, from_block=from_block, tag=tag, progress=show)


def _selection_rows(selections: Sequence[SelectionRow]) -> list[tuple[str, ...]]:
    from steelyard.audit.findings import show

    rows = []
    for validator in sorted({row.validator for row in selections}):
        own = [row for row in selections if row.validator == validator]
        counts = (
            len(own),
            sum(row.selected for row in own),
            sum(len(row.unchecked) for row in own),
            sum(len(row.unselected) for row in own),
            sum(row.probes for row in own),
            sum(row.state == "not provable" for row in own),
        )
        rows.append((show(validator), *map(str, counts)))
    return rows


def _print_report(report: AuditReport) -> None:
    from steelyard.audit.findings import show
    from steelyard.audit.report import list_cids
    from steelyard.protocol.pricing import format_yard

    books = report.books
    rows = [(place, format_yard(amount)) for place, amount in report.whereabouts()]
    print_table(["where the YARD is", "YARD>"], [*rows, ("minted - burned", format_yard(books.minted - books.burned))])
    gateways = [
        (
            show(account),
            *(format_yard(amount) for amount in (g.deposited, g.drawn, g.withdrawn, g.redeemed, g.remaining)),
        )
        for account, g in sorted(books.gateways.items())
    ]
    print_table(["gateway", "deposited>", "from stake>", "withdrawn>", "redeemed>", "remaining>"], gateways)
    lanes = [
        (show(p.lane.provider), show(p.lane.key)[:14] + "…", str(p.calls), format_yard(p.lane.accepted),
         format_yard(p.lane.paid), "yes" if p.is_proven else "no")
        for p in report.lanes
    ]  # fmt: skip
    if lanes:
        print_table(["provider", "lane", "calls>", "redeemed>", "paid>", "proven"], lanes)
    if report.selections:
        headings = ["validator", "epochs>", "to check>", "unchecked>", "unselected>", "probes>", "not provable>"]
        print_table(headings, _selection_rows(report.selections))
    if report.quality:
        right = sum(row.state == "right" for row in report.quality)
        print_line(f"quality: {right} of {len(report.quality)} published roots are what everyone computes")
    for finding in report.findings:
        print_line(f"{finding.severity}: {finding.code}: {finding.message}")
        for cid in list_cids(finding):
            print_line(f"    blob {cid}")
    print_line(
        f"chain {report.chain_id}, block {report.block}: {report.events} events, "
        f"{report.blobs_read} of {report.blobs_named} blobs read"
    )
    print_line(f"money conserved: {report.verdict}")
    if not report.lanes:
        print_next("nothing was redeemed yet, and calls are read from what was: steelyard redeem, and audit again")
    if report.verdict == "not provable":
        print_next("bring the missing blobs into the blob store (steelyard config show: blobs.dir), and audit again")
