"""Findings: their codes and their law page agree, and the verdict follows from them alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steelyard.audit.findings import CODES, Finding, Severity, Verdict, verdict_of
from steelyard.audit.report import EXIT_STATUS

ROOT = Path(__file__).parents[3]


def test_codes_in_code_and_law_are_the_same() -> None:
    """docs/spec/audit.md lists exactly the codes that there are, with the same words."""
    law = (ROOT / "docs/spec/audit.md").read_text("utf-8")
    assert dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", law, re.MULTILINE)) == CODES


def test_codes_found_in_the_source_are_all_declared() -> None:
    """No module of the audit uses a code that isn't declared, and no declared one is unused."""
    texts = [path.read_text("utf-8") for path in (ROOT / "src/steelyard/audit").glob("*.py") if path.stem != "findings"]
    used = {code for text in texts for code in CODES if f'"{code}"' in text}
    assert used == set(CODES)


@pytest.mark.parametrize(
    ("severities", "verdict", "status"),
    [
        ((), "yes", 0),
        (("note",), "yes", 0),
        (("note", "missing"), "not provable", 3),
        (("missing", "contradiction", "note"), "no", 1),
    ],
)
def test_verdict_of_findings_is_the_worst_of_them(
    severities: tuple[Severity, ...], verdict: Verdict, status: int
) -> None:
    """A contradiction says no, something missing says not provable, a note says nothing."""
    findings = [Finding(code="bad_blob", message="", severity=severity) for severity in severities]
    assert verdict_of(findings) == verdict
    assert EXIT_STATUS[verdict] == status
