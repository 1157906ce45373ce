"""PASS, FAIL or ABSTAIN: what a validator says of one call, and why.

1. FAIL needs what the provider signed, and all of it: a named breach of a rule that honest evidence keeps, another
   result where the kind is exact, or an e-value that honest answers don't reach.
2. What the validator lacks (model, calibration, the call's texts) abstains, and so does too short an answer.
3. PASS says that nothing speaks against the answer, no more.

Law: docs/spec/checking.md, section 7.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from steelyard.protocol.messages import Outcome
from steelyard.verification.betting import AnswerEvidence
from steelyard.verification.parameters import SHIPPED, CheckParameters


class Lack(StrEnum):
    """What the validator itself lacks; never the provider's fault."""

    CALL = "no_call"  # the gateway doesn't show it: private, too old, lost
    UNCHECKABLE = "uncheckable"  # the grade of the order promises no replay
    MODEL = "no_model"  # it can't run the manifest, and nobody sells it a replay
    CALIBRATION = "no_calibration"  # no null for this manifest and pair of engines
    SELLERS = "sellers_differ"  # two bought replays of one answer don't agree
    EVIDENCE = "no_evidence"  # not served; to be demanded on chain, where silence is a fault


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check came to.

    Attributes:
        lack: what the validator lacked, if anything.
        is_bound: what was compared is what the receipt in a signed batch commits to, complete.
        breach: stable code of the rule that the claim breaks (`services.port.Comparison.code`); "" for none.
        evidence: of a statistical check. is_match: of an exact one.
    """

    lack: Lack | None = None
    is_bound: bool = False
    breach: str = ""
    evidence: AnswerEvidence | None = None
    is_match: bool | None = None


class Judgement(msgspec.Struct, frozen=True):
    """A verdict's outcome and its stable reason.

    `reason` is "" for PASS; for ABSTAIN a `Lack`, ``unbound`` or ``too_few_tokens``; for FAIL the breach's code,
    ``another_result`` or ``improbable``.
    """

    outcome: Outcome
    reason: str = ""


def judge(finding: Finding, parameters: CheckParameters = SHIPPED) -> Judgement:
    """Return the verdict on one call; pure, and the same for everyone who has the same finding."""
    if finding.lack is not None:
        return Judgement(Outcome.ABSTAIN, finding.lack.value)
    if not finding.is_bound:
        return Judgement(Outcome.ABSTAIN, "unbound")
    if finding.breach:
        return Judgement(Outcome.FAIL, finding.breach)
    if finding.is_match is not None:
        return Judgement(Outcome.PASS) if finding.is_match else Judgement(Outcome.FAIL, "another_result")
    evidence = finding.evidence
    if evidence is None:
        return Judgement(Outcome.ABSTAIN, Lack.CALIBRATION.value)
    if evidence.scored < parameters.min_scored_tokens:
        return Judgement(Outcome.ABSTAIN, "too_few_tokens")
    if evidence.log_e >= math.log(parameters.fail_e):
        return Judgement(Outcome.FAIL, "improbable")
    return Judgement(Outcome.PASS)
