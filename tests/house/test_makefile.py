"""The Makefile makes what it, the pages and CI say can be made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, flags=re.MULTILINE)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci/run", *ROOT.glob("docs/**/*.md")]


def test_makefile_targets_are_those_declared_once_each() -> None:
    """No target is spelt wrong, left out of .PHONY or given twice, and each has a line of help."""
    declared = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)[0].split()
    assert sorted(TARGETS) == sorted(declared)
    helped = re.findall(r"^([a-z][a-z-]*):.*## \S", MAKEFILE, flags=re.MULTILINE)
    assert sorted(helped) == sorted(TARGETS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_names_only_targets_that_exist(page: Path) -> None:
    """Whoever types a `make` line of a page gets what it says; `make setup` and `make demo-trust` once did nothing."""
    named = re.findall(r"(?:`|^|^\$ )make ([a-z][a-z-]*)(?=`|$| )", page.read_text(), flags=re.MULTILINE)
    assert set(named) <= set(TARGETS)
