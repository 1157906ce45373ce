"""The package keeps its promises of size, speed and origin."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("eth_account", "eth", "xllamacpp", "sqlalchemy", "aiohttp", "web3", "picows")


def requirement_name(requirement: str) -> str:
    """Return the bare name of a requirement."""
    return re.split(r"[<>=!\[;~ ]", requirement)[0].lower()


def test_direct_dependencies_are_at_most_25() -> None:
    """Core, node, gateway and dev name at most 25 packages between them."""
    extras = PROJECT["optional-dependencies"]
    named = {requirement_name(r) for r in PROJECT["dependencies"]}
    for extra in ("node", "gateway", "dev"):
        named |= {requirement_name(r) for r in extras[extra]}
    assert len(named) <= 25, sorted(named)


def test_lock_has_hashes_and_no_registry_host() -> None:
    """Every locked package has hashes; no index or host is named; torch stays outside."""
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.findall(r"^([a-z0-9_.-]+)==", lock, flags=re.MULTILINE)
    assert packages
    assert len(re.findall(r"^[a-z0-9_.-]+==[^\n]*\\\n    --hash=sha256:", lock, flags=re.MULTILINE)) == len(packages)
    assert "://" not in lock
    assert "torch" not in packages


def test_lock_covers_every_direct_dependency() -> None:
    """A dependency added to pyproject.toml without `make lock` is noticed; only the torch engine's are left out."""
    lock = (ROOT / "requirements.lock").read_text().lower().replace("_", "-")
    wanted = list(PROJECT["dependencies"])
    for name, extra in PROJECT["optional-dependencies"].items():
        wanted += extra if name != "transformers" else []
    for requirement in wanted:
        assert re.search(rf"^{re.escape(requirement_name(requirement).replace('_', '-'))}==", lock, re.MULTILINE), (
            requirement
        )


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run some Python in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)


@pytest.mark.parametrize(
    ("code", "limit_s"),
    [
        ("import steelyard", 0.3),
        ("import sys; sys.argv = ['steelyard', '--help']; from steelyard.cli.app import main; main()", 1.0),
    ],
    ids=["import", "help"],
)
def test_start_is_quick_and_loads_nothing_heavy(code: str, limit_s: float) -> None:
    """`import steelyard` and `--help` stay under their limits over a bare interpreter and load no engine or chain."""
    probe = f"import atexit, sys\natexit.register(lambda: print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules]))\n"
    output = run_fresh(probe + code).stdout
    assert "HEAVY []" in output
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        run_fresh("pass")
        bare = time.perf_counter() - started
        started = time.perf_counter()
        run_fresh(code)
        seconds.append(time.perf_counter() - started - bare)
    assert min(seconds) < limit_s, seconds
