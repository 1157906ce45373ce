"""Is the published quality what everyone can compute? Each root of it recomputed from verdicts, secrets and cases.

1. Quality is a function of what stands on the ledger and at the court (verification/published.py): a root that
   differs from ours was made up, or of something that isn't there any more.
2. While a blob of verdicts that counts is missing, nothing is said of the epochs after it: they are "not provable".
3. None of this says anything about money: it changes no audit's verdict.
4. Nothing here reads a clock, a socket or a file.

Law: docs/spec/audit.md, section 4; docs/spec/checking.md, section 8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from steelyard.audit.books import PostedRoot
from steelyard.audit.findings import Finding, show
from steelyard.audit.selection import SelectionFacts
from steelyard.protocol.quality_blob import quality_root
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.verification.published import CaseSpan, Draw, PublishedQuality, quality_entries
from steelyard.verification.selection import Standing
from steelyard.verification.standing import Pair, standings_at


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """One published root of quality; `providers` are how many it should be of, `computed` the root that we get."""

    validator: bytes
    epoch: int
    state: Literal["right", "wrong", "not provable"]
    providers: int = 0
    computed: bytes = b""


def check_quality(roots: Iterable[PostedRoot], facts: SelectionFacts, cases: Sequence[CaseSpan]) -> list[QualityRow]:
    """Return a row for each root, by epoch and validator."""
    wanted = sorted(roots, key=lambda root: (root.epoch, root.publisher))
    by_epoch: defaultdict[int, list[tuple[bytes, PublishedVerdict, Draw]]] = defaultdict(list)
    standings: dict[int, Mapping[Pair, Standing]] = {}
    for post in sorted(facts.posted, key=lambda one: (one.posted_at_s, one.blob.validator, one.blob.epoch)):
        of_epoch = post.blob.epoch
        if of_epoch not in standings:
            standings[of_epoch] = standings_at(facts.posted, of_epoch, facts.epoch_s)
        secret = facts.secrets.get((post.blob.validator, of_epoch))
        draw = Draw(secret, facts.stakes.get(of_epoch, {}), standings[of_epoch])
        validator, at = post.blob.validator, post.posted_at_s // facts.epoch_s
        by_epoch[at] += [(validator, item, draw) for item in post.blob.verdicts]
    lost = min((epoch for _, epoch in facts.unread), default=None)
    quality, at = PublishedQuality(), min(by_epoch, default=0)
    rows: list[QualityRow] = []
    for epoch, of_epoch_roots in groupby(wanted, key=lambda root: root.epoch):
        if lost is not None and epoch > lost:
            rows += [QualityRow(validator=one.publisher, epoch=epoch, state="not provable") for one in of_epoch_roots]
            continue
        while at <= epoch:
            quality.fold((at + 1) * facts.epoch_s, by_epoch.get(at, []), cases)
            at += 1
        entries = quality_entries(quality.records)
        computed = quality_root(entries)
        rows += [
            QualityRow(
                validator=one.publisher,
                epoch=epoch,
                state="right" if one.root == computed else "wrong",
                providers=len(entries),
                computed=computed,
            )
            for one in of_epoch_roots
        ]
    return rows


def quality_findings(rows: Iterable[QualityRow]) -> Iterator[Finding]:
    """Return a note for each root that isn't what everyone computes."""
    for row in rows:
        if row.state == "wrong":
            message = (
                f"validator {show(row.validator)}, epoch {row.epoch}: another quality was published than verdicts, "
                f"secrets and cases give ({row.providers} entries, root {show(row.computed)})"
            )
            yield Finding(code="wrong_quality", message=message, severity="note", account=row.validator)
