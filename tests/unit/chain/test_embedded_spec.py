"""docs/spec/embedded-chain.md says what the code does: its limits and its methods."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.methods import build_methods
from steelyard.chain.embedded.pyevm import PyEvmEngine
from steelyard.chain.embedded.settings import ChainSettings

SPEC = (Path(__file__).parents[3] / "docs" / "spec" / "embedded-chain.md").read_text("utf-8")


def test_spec_limits_are_the_codes() -> None:
    """Each row of the table of limits names a constant and its value."""
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| `([\w.]+)` \|$", SPEC, re.MULTILINE)
    assert len(rows) >= 15
    for value, name in rows:
        module, constant = name.rsplit(".", 1)
        actual: Any = getattr(importlib.import_module(f"steelyard.chain.embedded.{module}"), constant)
        assert actual == int(value), name


def test_spec_methods_are_the_codes(tmp_path: Path) -> None:
    """The table of methods and the methods served are the same set."""
    section = SPEC.split("## 5. Methods", 1)[1].split("\n- ", 1)[0]
    documented = set(re.findall(r"`((?:eth|net|web3|rpc|evm)_\w+)`", section))
    chain = EmbeddedChain(ChainSettings(db=tmp_path / "chain.sqlite"), PyEvmEngine())
    try:
        served = set(build_methods(chain, is_dev_time=True))
    finally:
        chain.store.close()
    assert documented == served | {"eth_subscribe", "eth_unsubscribe"}
