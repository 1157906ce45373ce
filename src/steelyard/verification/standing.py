"""What the ledger says of providers when an epoch begins: who is a newcomer, and who failed lately.

1. Verdicts count from the moment their root stands on chain: those posted before an epoch began are its standing, so
   everyone reckons with the same.
2. Each receipt counts once, whoever judged it; ABSTAIN counts as nothing.

Law: docs/spec/checking.md, section 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from steelyard.protocol.messages import Outcome
from steelyard.protocol.verdicts_blob import VerdictsBlob
from steelyard.verification.selection import Standing

Pair = tuple[bytes, bytes]
"""A provider's account and a service's id."""


class PostedVerdicts(msgspec.Struct, frozen=True):
    """An active validator's verdicts of an epoch, as they were posted at a time of the chain's clock (Unix seconds)."""

    blob: VerdictsBlob
    posted_at_s: int


def standings_at(posted: Iterable[PostedVerdicts], epoch: int, epoch_s: int) -> dict[Pair, Standing]:
    """Return the standing of each provider at each service when an epoch of `epoch_s` seconds begins.

    A pair that is not in it has none: it is a newcomer.
    """
    begin_s = epoch * epoch_s
    counts: dict[Pair, set[bytes]] = defaultdict(set)
    failed: set[Pair] = set()
    for one in posted:
        if one.posted_at_s >= begin_s:
            continue
        for item in one.blob.verdicts:
            pair, outcome = (item.provider, item.service_id), item.verdict.outcome
            if outcome != Outcome.ABSTAIN:
                counts[pair].add(item.verdict.receipt)
            if outcome == Outcome.FAIL and one.posted_at_s >= begin_s - epoch_s:
                failed.add(pair)
    return {pair: Standing(verdicts=len(found), has_failed=pair in failed) for pair, found in counts.items()}
