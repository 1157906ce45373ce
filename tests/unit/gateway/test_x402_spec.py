"""The codes and numbers of docs/spec/x402.md are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from steelyard.gateway import x402, x402_rules, x402_settle, x402_wire

ROOT = Path(__file__).parents[3]
PAGE = " ".join((ROOT / "docs/spec/x402.md").read_text().split())
SOURCES = "".join((ROOT / "src/steelyard/gateway" / f"{name}.py").read_text() for name in ("x402_rules", "x402_settle"))


def test_spec_numbers_equal_the_code() -> None:
    """Whoever changes a constant changes the page with it."""
    terms = x402.X402Terms()
    for said in (
        f"settling ({x402_settle.SETTLE_S} s) and {x402.DECIDE_S} s to decide",
        f"may be {x402_rules.CLOCK_SLACK_S} s older",
        f"for `bench_s` ({terms.bench_s:.0f} s)",
        f"at most {x402_wire.MAX_HEADER_BYTES >> 10} KiB",
        f"`requests_per_minute` ({terms.requests_per_minute})",
        f"`schemes` (`{','.join(terms.schemes)}`)",
    ):
        assert said in PAGE, said


def test_spec_names_every_code() -> None:
    """Each code that a payment can be refused with stands there."""
    codes = set(
        re.findall(r'"((?:invalid|permit2|upto|eip2612|payer|amount|asset|network|unsupported)_[a-z0-9_]+)"', SOURCES)
    )
    codes = {code for code in codes if not code.endswith("_")} | {x402_settle.TRANSACTION_FAILED, "settlement_failed"}
    assert len(codes) > 15
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGE] == []
