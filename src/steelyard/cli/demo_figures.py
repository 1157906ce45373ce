"""What the trust demo came to: per provider how it was checked, what that is worth as evidence, what it lost.

A log-probability fingerprint alone is shown beside: the same bets on the same answers, those on the gap only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from steelyard.chain.cases import Case, Ruling
from steelyard.cli.demo_users import UserCall
from steelyard.cli.local_network import Network
from steelyard.protocol.messages import Outcome
from steelyard.protocol.pricing import format_yard
from steelyard.storage.database import open_database
from steelyard.storage.verdicts import VerdictRow, load_suspicions, load_verdicts
from steelyard.verification.betting import GAINS, log_add, log_mean
from steelyard.verification.eprocess import SIZES, Process, Suspicion, decode_suspicion
from steelyard.verification.parameters import SHIPPED
from steelyard.verification.scores import SCORES

_LN10 = math.log(10)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the story saw: the users' calls, how many of them there were when the first case was opened and when every
    cheat was convicted, the cases, and stakes in nano by provider.
    """

    calls: Sequence[UserCall]
    challenged_at: int
    convicted_from: int
    cases: Sequence[Case]
    stakes_before: dict[str, int]
    stakes_after: dict[str, int]


@dataclass(frozen=True, slots=True)
class ProviderFigures:
    """One provider. Powers are of ten, the highest over all validators; shares are of the users' calls, 0 to 1.

    Attributes:
        cheat: which, or "". audited, tokens: by all validators until its case was opened (or the end).
        challenger_audited, challenger_tokens: of those the challenger's.
    """

    name: str
    cheat: str
    audited: int
    tokens: int
    challenger_audited: int
    challenger_tokens: int
    verdicts: dict[Outcome, int]
    power: float
    fingerprint_power: float
    cases: int
    is_convicted: bool
    stake_before: int
    stake_after: int
    share_before: float
    share_after: float

    @property
    def is_caught_by_fingerprint(self) -> bool:
        """Whether the gap alone would have sufficed for a challenge."""
        return self.fingerprint_power >= math.log10(SHIPPED.challenge_e)

    @property
    def is_right(self) -> bool:
        """A cheat is convicted, slashed and out of work; an honest provider is none of it."""
        if self.cheat:
            return self.is_convicted and self.stake_after < self.stake_before and self.share_after == 0
        is_blamed = self.cases or self.verdicts.get(Outcome.FAIL) or self.stake_after < self.stake_before
        return not is_blamed and self.share_after >= self.share_before / 2  # two dozen calls fall where luck has it


@dataclass(frozen=True, slots=True)
class Book:
    """What one validator wrote down about one service, by provider."""

    account: bytes
    rows: dict[bytes, list[VerdictRow]]
    suspicions: dict[bytes, Suspicion]


async def collect_figures(network: Network, service: bytes, seen: Observed) -> list[ProviderFigures]:
    """Return each provider's figures; the validators' books are read in the network's home."""
    books = [await _read_book(network, name, service) for name in network.accounts.validators]
    return [_figures_of(network, name, books, seen) for name in network.accounts.providers]


def _figures_of(network: Network, name: str, books: Sequence[Book], seen: Observed) -> ProviderFigures:
    account = network.accounts[name].account
    cases = [case for case in seen.cases if case.accused == account]
    until_ms = 1000 * min((case.opened_at_s + 1 for case in cases), default=1 << 60)
    challenger = cases[0].challenger if cases else b""
    every = [(book.account, row) for book in books for row in book.rows.get(account, [])]
    audited = [(by, row) for by, row in every if row.outcome != Outcome.ABSTAIN and row.created_ms < until_ms]
    own = [row for by, row in audited if by == challenger]
    suspicions = [book.suspicions[account] for book in books if account in book.suspicions]
    return ProviderFigures(
        name=name,
        cheat=network.plan.programs[name][-1] if name in network.plan.programs else "",
        audited=len(audited),
        tokens=sum(row.tokens for _, row in audited),
        challenger_audited=len(own),
        challenger_tokens=sum(row.tokens for row in own),
        verdicts=dict(Counter(Outcome(row.outcome) for _, row in every)),
        power=max((suspicion.log_e for suspicion in suspicions), default=0.0) / _LN10,
        fingerprint_power=max((fingerprint(suspicion.whole) for suspicion in suspicions), default=0.0) / _LN10,
        cases=len(cases),
        is_convicted=any(case.ruling is Ruling.CONVICTED for case in cases),
        stake_before=seen.stakes_before[name],
        stake_after=seen.stakes_after[name],
        share_before=_share(seen.calls[: seen.challenged_at], account),
        share_after=_share(seen.calls[seen.convicted_from :], account),
    )


def fingerprint(process: Process) -> float:
    """Return the logarithm of the e-process whose only bets are those on the gap: a log-probability fingerprint."""
    if not process.log_sums:
        return 0.0
    gaps = SCORES.index("gap")
    bets = [(size * len(SCORES) + gaps) * len(GAINS) + gain for size in range(len(SIZES)) for gain in range(len(GAINS))]
    return log_add(log_mean([process.log_sums[bet] for bet in bets]), -math.log(process.count + 1))


async def _read_book(network: Network, name: str, service: bytes) -> Book:
    database = await open_database(f"sqlite:///{network.plan.home / (name + '.db')}")
    try:
        rows: dict[bytes, list[VerdictRow]] = {}
        for row in await load_verdicts(database):
            if row.service_id == service:
                rows.setdefault(row.provider, []).append(row)
        states = await load_suspicions(database)
    finally:
        await database.aclose()
    suspicions = {provider: decode_suspicion(state) for (provider, sold), state in states.items() if sold == service}
    return Book(network.accounts[name].account, rows, suspicions)


def _share(calls: Sequence[UserCall], account: bytes) -> float:
    return sum(call.provider == account for call in calls) / len(calls) if calls else 0.0


def print_figures(console: Console, figures: Sequence[ProviderFigures]) -> bool:
    """Print the closing table and say whether everything is as it must be."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "provider",
        "sells",
        "audited>",
        "pass/fail/-",
        "evidence>",
        "by gaps>",
        "stake>",
        "traffic>",
        "court",
    ):
        table.add_column(column.rstrip(">"), justify="right" if ">" in column else "left", no_wrap=True)
    for one in figures:
        colour = "green" if one.is_right else "red"
        table.add_row(
            one.name,
            SELLS[one.cheat],
            f"{one.audited} / {one.tokens:,}",
            "/".join(str(one.verdicts.get(outcome, 0)) for outcome in Outcome),
            _power(one.power),
            _power(one.fingerprint_power),
            f"{format_yard(one.stake_before)} → {format_yard(one.stake_after)}",
            f"{one.share_before:.0%} → {one.share_after:.0%}",
            f"[{colour}]{'convicted' if one.is_convicted else 'acquitted' if one.cases else 'never accused'}[/]",
        )
    console.print(table)
    for line in NOTES:
        console.print(line, style="dim", markup=False)
    for one in figures:
        if one.cheat and one.cases:
            console.print(
                f"{one.name} was challenged after {one.challenger_audited} answers and {one.challenger_tokens} tokens "
                f"that the challenger had audited; a log-probability fingerprint alone catches it: "
                f"{'yes' if one.is_caught_by_fingerprint else 'no'}"
            )
    cheats = [one for one in figures if one.cheat]
    is_caught = all(one.is_right for one in cheats)
    is_fair = all(one.is_right for one in figures if not one.cheat)
    console.print(f"every cheat caught, slashed and out of work: {_yes(is_caught)}")
    console.print(f"no honest provider lost anything: {_yes(is_fair)}")
    return is_caught and is_fair


NOTES = (
    "audited: answers / tokens until the case, by all validators; verdicts PASS, FAIL, ABSTAIN; evidence: odds against",
    "honesty by the validator that has most, and by gaps, that is by a log-probability fingerprint alone; stake: YARD;",
    "traffic: share of the calls before the first case, and after the last conviction",
)
SELLS = {"": "the real model", "coarse": "2-bit weights", "backfill": "2-bit, honest prefill"}


def _power(power: float) -> str:
    return f"10^{power:.1f}" if power < 1000 else f"10^{power:.0f}"


def _yes(is_so: bool) -> str:
    return "[bold green]yes[/]" if is_so else "[bold red]no[/]"
