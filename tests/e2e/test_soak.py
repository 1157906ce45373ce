"""A minute of kills, cuts and freezes under load: every book agrees afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOAK = ROOT / "bench" / "soak"
sys.path.append(str(SOAK))

from faults import DECK, KILLS_UNTIL, plan_faults  # noqa: E402  # a bench is no package

NODES = ["node-1", "node-2", "node-3"]


@pytest.mark.timeout(420)
def test_network_that_is_broken_for_a_minute_keeps_every_promise(tmp_path: Path) -> None:
    """`make soak SECONDS=60`: no overspend, no lost voucher, no leak, money conserved; its table says so."""
    command = [sys.executable, str(SOAK / "run.py"), "--seconds", "60", "--seed", "12", "--rate", "15"]
    result = tmp_path / "soak.json"
    ended = subprocess.run([*command, "--json", str(result)], capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    found = json.loads(result.read_text())
    kinds = {fault["kind"] for fault in found["faults"]}
    assert {"kill-node", "kill-gateway", "kill-chain", "cut-links"} <= kinds
    assert {line["what"] for line in found["lines"] if line["is_good"] is False} == set()
    assert "money conserved" in ended.stdout


def test_schedule_follows_from_its_seed() -> None:
    """The same seed gives the same faults, another one others; gateway and chain live long at the end."""
    faults = plan_faults(7, 600.0, NODES)
    assert faults == plan_faults(7, 600.0, NODES) != plan_faults(8, 600.0, NODES)
    assert {fault.kind for fault in faults} == set(DECK)
    assert len(faults) > 80
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    late = [fault for fault in faults if fault.at_s >= KILLS_UNTIL * 600 and fault.kind.startswith("kill-")]
    assert {fault.target for fault in late} == {"node-2", "node-3"}
