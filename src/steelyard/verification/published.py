"""The quality of providers, from what stands on the ledger and at the court: who reads the same gets the same numbers.

1. A verdict counts in the epoch in which it was posted, once per receipt; where validators differ, a FAIL counts. Draws
   are checked against the secrets that their validators revealed; without a revealed secret they count nothing.
2. Validators publish it (validator/quality_posts.py), and an audit computes it again (audit/quality.py).

Law: docs/spec/checking.md, section 8.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from steelyard.protocol.messages import Outcome
from steelyard.protocol.quality_blob import QualityEntry
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.verification.parameters import SHIPPED, CheckParameters
from steelyard.verification.quality import Epoch, Record, next_record, quality_ppm
from steelyard.verification.selection import Standing, check_rate_ppb, is_selected
from steelyard.verification.standing import Pair


class CaseSpan(msgspec.Struct, frozen=True):
    """A case of cheating against a provider at a service: when it was opened, when it closed (or None), and how.

    Times are Unix seconds of the chain's clock.
    """

    pair: Pair
    opened_s: int
    closed_s: int | None = None
    is_upheld: bool = False

    def bars(self, time_s: int) -> bool:
        """Say whether quality is 0 at a time because of it."""
        if self.opened_s >= time_s:
            return False
        return self.closed_s is None or self.closed_s >= time_s or self.is_upheld


class Draw(msgspec.Struct, frozen=True):
    """What decides whether a validator's verdicts of an epoch count: its revealed secret, stakes and standings."""

    secret: bytes | None
    stakes: Mapping[bytes, int]
    standings: Mapping[Pair, Standing]


def counts(validator: bytes, item: PublishedVerdict, draw: Draw, parameters: CheckParameters = SHIPPED) -> bool:
    """Say whether a verdict's validator was to check the call, as far as the ledger shows it.

    A newcomer's calls are assigned by their orders, which are not published: they count while it is a newcomer.
    """
    standing = draw.standings.get((item.provider, item.service_id), Standing())
    if item.selected_by == "probe":
        return True
    if item.selected_by == "newcomer":
        return standing.verdicts < parameters.newcomer_verdicts
    if draw.secret is None or (item.selected_by == "boost" and not standing.has_failed):
        return False
    stake, total = draw.stakes.get(validator, 0), sum(draw.stakes.values())
    rate = check_rate_ppb(stake, total, item.selected_by == "boost", parameters)
    return is_selected(draw.secret, item.verdict.receipt, rate)


def count_epoch(posted: Iterable[tuple[bytes, PublishedVerdict, Draw]], seen: set[bytes]) -> dict[Pair, Epoch]:
    """Return what an epoch's posts brought to each provider at each service.

    Args:
        posted: (validator, verdict, how it was drawn) in any order. seen: receipts that counted before; added to.
    """
    found: dict[bytes, tuple[Pair, Outcome, bool]] = {}
    for validator, item, draw in posted:
        receipt, outcome = item.verdict.receipt, Outcome(item.verdict.outcome)
        is_probe = item.selected_by == "probe"
        if receipt in seen or (outcome is Outcome.ABSTAIN and not is_probe) or not counts(validator, item, draw):
            continue
        known = found.get(receipt)
        rank = (Outcome.FAIL, Outcome.PASS, Outcome.ABSTAIN)
        if known is None or rank.index(outcome) < rank.index(known[1]):
            found[receipt] = ((item.provider, item.service_id), outcome, is_probe)
    seen.update(found)
    sums: dict[Pair, Counter[str]] = defaultdict(Counter)
    for pair, outcome, is_probe in found.values():
        if is_probe:  # nobody can tell from outside whether it was one, so its FAIL weighs no more than its PASS
            sums[pair]["probes_failed" if outcome is Outcome.FAIL else "probes_answered"] += 1
        else:
            sums[pair]["passes" if outcome is Outcome.PASS else "fails"] += 1
    return {pair: Epoch(**counted) for pair, counted in sums.items()}


class PublishedQuality:
    """The records of everybody, folded epoch by epoch; `fold` is called for each epoch in turn."""

    def __init__(self) -> None:
        self.records: dict[Pair, Record] = {}
        self._seen: set[bytes] = set()

    def fold(
        self, end_s: int, posted: Iterable[tuple[bytes, PublishedVerdict, Draw]], cases: Iterable[CaseSpan]
    ) -> None:
        """Go on by an epoch that ends at a Unix second.

        Args:
            posted: what was posted in the epoch, as `count_epoch` takes it. cases: all that were opened so far.
        """
        brought = count_epoch(posted, self._seen)
        barred = {case.pair for case in cases if case.bars(end_s)}
        for pair in {*self.records, *brought, *barred}:
            before = self.records.get(pair, Record())
            self.records[pair] = next_record(before, brought.get(pair, Epoch()), is_barred=pair in barred)


def quality_entries(records: Mapping[Pair, Record]) -> list[QualityEntry]:
    """Return records as they are published, in ascending order."""
    return [
        QualityEntry(
            provider="0x" + provider.hex(),
            service_id="0x" + service_id.hex(),
            passes_ppm=record.passes_ppm,
            fails_ppm=record.fails_ppm,
            is_barred=record.is_barred,
            quality_ppm=quality_ppm(record),
        )
        for (provider, service_id), record in sorted(records.items())
    ]
