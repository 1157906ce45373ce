"""The numbers that checking ships with: how much is checked, how sure one must be, what a lie costs.

1. One frozen struct, with units in the names; integers wherever two machines must agree.
2. The stake floor is not free: tests/property/test_cheating_never_pays.py holds it against `economics`.

Law: docs/spec/checking.md, section 10.
"""

from __future__ import annotations

import msgspec

BILLION = 10**9
WHOLE_BPS = 10_000


class CheckParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What everyone who checks, audits or judges must agree on.

    Attributes:
        rate_ppb: calls checked by all validators together, in parts per billion.
        newcomer_verdicts: a provider with fewer verdicts on the ledger, for a service, is a newcomer.
        newcomer_calls: of each lane of a newcomer so many calls are checked whole.
        newcomer_units: only calls of so many units (tokens) count among those.
        boost, boost_calls: after an epoch with a FAIL, the rate is `boost` times higher for so many calls of each lane.
        min_scored_tokens: an answer with fewer tokens in calibrated strata abstains.
        fail_e: an answer whose own e-value reaches this gets FAIL.
        challenge_e: the e-process that opens a challenge, without any single gateway's calls.
        retry_answers: a challenge after an acquittal needs so many audited answers that no earlier one had.
        convict_answers: the slowest cheat that stake must deter needs so many audited cheated answers to conviction.
        colluders_bps: share of validators' stake that may collude and all of the above still holds.
        panel_seats, panel_votes, appeal_seats, appeal_votes: first panel and appeal, as in the Court.
        slash_bps: of the stake, on a panel's conviction, as in the Court.
        stake_floor_orders: a provider's stake over the highest price of one order.
        reward_bps: of the protocol's cut, the most that rewards give back.
        quality_keep_ppm: of last epoch's record, what an epoch keeps (its half-life is 168 epochs).
        quality_prior: passes that a newcomer lacks: its quality begins at 1 / `quality_prior`.
        quality_fail_weight: a FAIL counts as so many passes missed.
    """

    rate_ppb: int = 10_000_000
    newcomer_verdicts: int = 50
    newcomer_calls: int = 50
    newcomer_units: int = 64
    boost: int = 4
    boost_calls: int = 50
    min_scored_tokens: int = 4
    fail_e: int = 1_000
    challenge_e: int = 1_000_000
    retry_answers: int = 8
    convict_answers: int = 64
    colluders_bps: int = 3_334
    panel_seats: int = 7
    panel_votes: int = 5
    appeal_seats: int = 15
    appeal_votes: int = 11
    slash_bps: int = 5_000
    stake_floor_orders: int = 35_000
    reward_bps: int = 9_000
    quality_keep_ppm: int = 995_883
    quality_prior: int = 20
    quality_fail_weight: int = 20


SHIPPED = CheckParameters()
"""What a deployment has unless it says otherwise."""
