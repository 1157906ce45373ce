"""Each promise of the soak as one line: what was found, what is asked for, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from books import UNSIGNED_S, Books
from load import Seen
from watch import WARM_S, Watch, list_leaks

LEAST_REDEEMED = 0.999
MOST_GROWTH = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """One promise: `is_good` None means that it could not be judged, or is no promise."""

    what: str
    found: str
    asked: str
    is_good: bool | None
    detail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """All lines; good if none says no."""

    lines: tuple[Line, ...]

    @property
    def is_good(self) -> bool:
        """Whether every promise that could be judged was kept."""
        return all(line.is_good is not False for line in self.lines)


def judge(
    seen: Seen,
    watch: Watch,
    books: Books,
    before: dict[str, dict[str, int]],
    after: dict[str, dict[str, int]],
    seconds: float,
) -> Verdict:
    """Return the table's lines."""
    share = books.accepted_nano / books.receipts_nano if books.receipts_nano else 0.0
    signed_share = books.accepted_nano / books.batched_nano if books.batched_nano else 0.0
    answered = sum(count for what, count in seen.outcomes.items() if what.endswith(": answered"))
    binding = sum(count for what, count in seen.outcomes.items() if what.endswith("budget_exceeded"))
    tail = sorted(seen.first_piece_s)
    return Verdict(
        (
            Line("calls answered", f"{answered:,} of {sum(seen.outcomes.values()):,}", "more than none", answered > 0),
            Line("answers that were not the echo", str(len(seen.wrong)), "0", not seen.wrong, tuple(seen.wrong[:5])),
            Line("refusals by a spent budget", f"{binding:,}", "more than none", binding > 0),
            _none("keys overspent", [*watch.overdrawn, *books.overspent]),
            _none("keys whose budget is not the sum of its calls", books.key_differences),
            _none("signed totals that fell", watch.falls),
            _none("vouchers lost", books.lost_vouchers),
            Line(
                "value of signed receipts redeemed",
                f"{signed_share:.4%} of {books.batched_nano:,} nano",
                f"at least {LEAST_REDEEMED:.1%}",
                signed_share >= LEAST_REDEEMED,
            ),
            Line(
                "calls whose receipt its killed node never signed",
                f"{books.unsigned} of {books.receipts:,}, {1 - share:.4%} of the value",
                f"at most {UNSIGNED_S} s old at a kill",
                not books.stale,
                tuple(books.stale[:5]),
            ),
            _memory(watch),
            _held("tasks", before, after),
            _held("sockets", before, after),
            _none("defects in the logs", books.bugs),
            Line("money conserved", books.audit["money_conserved"], "yes", books.audit["money_conserved"] == "yes"),
            Line("settled and redeemed after the load", f"{books.settled_after_s:.0f} s", "90 s", None),
            Line(
                "first piece, p50 and p95",
                f"{statistics.median(tail) * 1000:.0f} and {tail[int(len(tail) * 0.95)] * 1000:.0f} ms"
                if tail
                else "-",
                "no promise: faults are in it",
                None,
            ),
        )
    )


def print_verdict(verdict: Verdict, measured: dict[str, Any]) -> None:
    """Print the table: green is kept, red is broken, yellow could not be judged or is no promise."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kills = sum(fault["kind"].startswith("kill-") for fault in measured["faults"])
    title = f"{measured['seconds']:.0f} s, seed {measured['seed']}: {len(measured['faults'])} faults, {kills} kills"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in ("promise", "found", "asked for", ""):
        table.add_column(column, overflow="fold")
    marks = {True: ("kept", "green"), False: ("BROKEN", "bold red"), None: ("-", "yellow")}
    for line in verdict.lines:
        mark, style = marks[line.is_good]
        table.add_row(line.what, Text(line.found, style=style), line.asked, Text(mark, style=style))
        for detail in line.detail:
            table.add_row("", Text(detail, style="dim"), "", "")
    Console(width=None if Console().is_terminal else 150).print(table)


def _none(what: str, found: Sequence[str]) -> Line:
    return Line(what, str(len(found)), "0", not found, tuple(found[:5]))


def _memory(watch: Watch) -> Line:
    what, asked = "memory grown since minute 2", f"under {MOST_GROWTH:.0%}, each process"
    judged = [(life.name, grown) for life in watch.lives if (grown := life.growth()) is not None]
    if not judged:
        return Line(what, f"no process lived {WARM_S + 40:.0f} s", asked, None)
    worst = max(share for _, (share, _, _) in judged)
    detail = tuple(f"{name}: {early:.1f} to {late:.1f} MiB, {share:+.1%}" for name, (share, early, late) in judged)
    return Line(what, f"{worst:+.1%} at worst, {len(judged)} lives", asked, worst < MOST_GROWTH, detail)


def _held(what: str, before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> Line:
    leaks = list_leaks(what, before, after)
    total = [sum(held[what] for held in side.values()) for side in (before, after)]
    return Line(f"{what} leaked", f"{len(leaks)} processes ({total[0]} to {total[1]})", "0", not leaks, tuple(leaks))
