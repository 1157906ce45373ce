"""verification/verdict.py: PASS, FAIL or ABSTAIN, by docs/spec/checking.md, section 7."""

from __future__ import annotations

import math

import pytest

from steelyard.protocol.messages import Outcome
from steelyard.verification.betting import BETS, AnswerEvidence
from steelyard.verification.verdict import Finding, Lack, judge


def _evidence(log_e: float, scored: int = 64) -> AnswerEvidence:
    return AnswerEvidence(tokens=64, scored=scored, log_bets=(log_e,) * BETS)


@pytest.mark.parametrize("lack", list(Lack))
def test_lack_of_the_validator_abstains_whatever_else_there_is(lack: Lack) -> None:
    """What the validator lacks is never the provider's fault."""
    finding = Finding(lack=lack, is_bound=True, breach="evidence_bill", evidence=_evidence(99.0), is_match=False)
    assert judge(finding).outcome is Outcome.ABSTAIN
    assert judge(finding).reason == lack.value


@pytest.mark.parametrize(
    "finding", [Finding(breach="evidence_malformed"), Finding(is_match=False), Finding(evidence=_evidence(99.0))]
)
def test_unsigned_or_incomplete_evidence_abstains(finding: Finding) -> None:
    """Nobody fails for bytes that his own signature doesn't cover."""
    assert (judge(finding).outcome, judge(finding).reason) == (Outcome.ABSTAIN, "unbound")


def test_named_breach_fails_by_its_name() -> None:
    """Malformed evidence that is signed and complete fails, and says why."""
    verdict = judge(Finding(is_bound=True, breach="evidence_spelling"))
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, "evidence_spelling")


@pytest.mark.parametrize(("is_match", "outcome"), [(True, Outcome.PASS), (False, Outcome.FAIL)])
def test_exact_kind_passes_or_fails_by_its_result(is_match: bool, outcome: Outcome) -> None:
    """There is nothing to weigh where results must be equal."""
    assert judge(Finding(is_bound=True, is_match=is_match)).outcome is outcome


@pytest.mark.parametrize(
    ("log_e", "outcome"),
    [(-3.0, Outcome.PASS), (math.log(1000) - 1e-6, Outcome.PASS), (math.log(1000) + 1e-6, Outcome.FAIL)],
)
def test_statistical_answer_fails_from_a_thousand_on(log_e: float, outcome: Outcome) -> None:
    """An honest answer reaches that at most once in a thousand."""
    assert judge(Finding(is_bound=True, evidence=_evidence(log_e))).outcome is outcome


def test_answer_with_too_few_scored_tokens_abstains() -> None:
    """Three tokens say too little for a verdict, whatever they say."""
    assert judge(Finding(is_bound=True, evidence=_evidence(99.0, scored=3))).reason == "too_few_tokens"
    assert judge(Finding(is_bound=True, evidence=_evidence(99.0, scored=4))).outcome is Outcome.FAIL


def test_finding_without_a_comparison_abstains() -> None:
    """No evidence, no match and no lack means that nothing was calibrated."""
    assert judge(Finding(is_bound=True)).reason == "no_calibration"
