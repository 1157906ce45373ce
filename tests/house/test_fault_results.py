"""What the pages say of the fault bench is what its last run found."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "bench/faults/results/faults.json").read_text())


def test_pages_give_the_figures_of_the_last_run() -> None:
    """Cases and verdicts in README.md and the bench's own page are the kept JSON's; all of ours came as stated."""
    ours, theirs = RESULT["steelyard"], RESULT["litellm"]["cases"]
    assert [case for case in ours if case["misses"] or case["verdict"] == "wrong"] == []
    wrong = sum(case["verdict"] == "wrong" for case in theirs)
    for page in ("README.md", "bench/faults/README.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert f"{len(ours)} cases" in text, page
        assert re.search(rf"LiteLLM {re.escape(RESULT['litellm']['version'])}[^.]* {wrong} of {len(theirs)}", text), (
            page
        )


def test_kept_run_has_every_fault_of_the_table() -> None:
    """A fault that was added later has been run."""
    names = re.findall(
        r'^    Fault\(\s*"([a-z0-9-]+)"', (ROOT / "bench/faults/cases.py").read_text(), flags=re.MULTILINE
    )
    assert list(dict.fromkeys(case["fault"] for case in RESULT["steelyard"])) == names
