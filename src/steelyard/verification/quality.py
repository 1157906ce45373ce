"""A provider's record at a service, and what the epoch's rewards make of it.

1. The record is a beta reputation that forgets: passes and fails of verdicts and probes, in millionths, of which each
   epoch keeps `quality_keep_ppm` (a half-life of 168 epochs). Integers only: everyone gets the same number.
2. A newcomer begins at 1 / `quality_prior` and earns its quality; a FAIL weighs `quality_fail_weight` passes missed.
3. A reward is at most `reward_bps` of the protocol's cut of the same redemptions, times quality: no other provider's
   record, and no way to split accounts, changes it. So whoever trades with himself pays more than he gets.

Law: docs/spec/checking.md, section 8.  Source: beta reputation, Jøsang and Ismail 2002, with forgetting.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.messages import Outcome
from steelyard.verification.parameters import SHIPPED, WHOLE_BPS, CheckParameters

PPM = 10**6


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """What an epoch brought to a provider at a service, each receipt and probe once.

    Attributes:
        passes, fails: verdicts that their validators were selected for; ABSTAIN counts as neither.
        probes_answered, probes_failed: probes that got a whole answer in time, and that did not.
    """

    passes: int = 0
    fails: int = 0
    probes_answered: int = 0
    probes_failed: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is remembered, in millionths of a pass and of a fail; `is_barred` while a challenge is open or upheld."""

    passes_ppm: int = 0
    fails_ppm: int = 0
    is_barred: bool = False


class Redeemed(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's redemptions at one service in an epoch: the protocol's cut of them in nano, and its quality.

    Only redemptions of checked grades belong here: `unchecked` and `logprobs` calls earn no reward.
    """

    provider: bytes
    service_id: bytes
    cut_nano: int
    quality_ppm: int


def count_verdicts(outcomes: Iterable[Outcome], probes_answered: int = 0, probes_failed: int = 0) -> Epoch:
    """Return an epoch's counts from its verdicts' outcomes and its probes."""
    found = list(outcomes)
    return Epoch(
        passes=found.count(Outcome.PASS),
        fails=found.count(Outcome.FAIL),
        probes_answered=probes_answered,
        probes_failed=probes_failed,
    )


def next_record(
    record: Record, epoch: Epoch, *, is_barred: bool = False, parameters: CheckParameters = SHIPPED
) -> Record:
    """Return the record after an epoch; called for every epoch, also for one without verdicts.

    Args:
        is_barred: a challenge against the provider at this service is open, or was upheld.
    """
    keep = parameters.quality_keep_ppm
    passes = record.passes_ppm * keep // PPM + (epoch.passes + epoch.probes_answered) * PPM
    lost = epoch.fails * parameters.quality_fail_weight + epoch.probes_failed
    return Record(passes_ppm=passes, fails_ppm=record.fails_ppm * keep // PPM + lost * PPM, is_barred=is_barred)


def quality_ppm(record: Record, parameters: CheckParameters = SHIPPED) -> int:
    """Return the quality, 0 to 1,000,000: (passes + 1) / (passes + fails + prior); 0 while barred."""
    if record.is_barred:
        return 0
    whole = record.passes_ppm + record.fails_ppm + parameters.quality_prior * PPM
    return (record.passes_ppm + PPM) * PPM // whole


def reward_weights(redeemed: Iterable[Redeemed], parameters: CheckParameters = SHIPPED) -> dict[bytes, int]:
    """Return each provider's reward for an epoch in nano, by ascending account; what is left stays in the pot.

    reward = floor(cut x reward_bps / 10,000 x quality): at most 90 % of the cut of the same redemptions, for each
    provider and so for any set of them.

    Raises:
        BadMessage: a cut below zero, or a quality that is none.
    """
    rewards: dict[bytes, int] = {}
    for entry in redeemed:
        if entry.cut_nano < 0 or not 0 <= entry.quality_ppm <= PPM:
            raise BadMessage(f"a cut of {entry.cut_nano} nano at a quality of {entry.quality_ppm} ppm is none")
        reward = entry.cut_nano * parameters.reward_bps * entry.quality_ppm // (WHOLE_BPS * PPM)
        rewards[entry.provider] = rewards.get(entry.provider, 0) + reward
    return dict(sorted(rewards.items()))
