"""One audit from end to end: a chain that changes while it is read is read again, and not for ever."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from steelyard.audit import run as audit_run
from steelyard.chain.deployment import Deployment
from steelyard.errors import BadRequest, ChainError

DEPLOYMENT = Deployment(
    chain_id=1, salt=b"\x01" * 32, manager=b"\x02" * 20, yard=b"\x03" * 20, registry=b"\x04" * 20, escrow=b"\x05" * 20,
    ledger=b"\x06" * 20, court=b"\x07" * 20, proofs=b"\x08" * 20, rewards=b"\x09" * 20, block=7,
    epoch_s=1, withdraw_delay_s=1, unbond_delay_s=2,
)  # fmt: skip


class Readings:
    """Stands for the chain: how often it was read, and after how many readings it stays the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steady_after: int, *, is_raising: bool = False) -> None:
        self.count = 0

        async def pin(rpc: Any, tag: Any) -> str:
            return "block"

        async def check(rpc: Any, deployment: Any) -> None:
            pass

        async def read(*_: Any) -> str:
            self.count += 1
            if is_raising and self.count < steady_after:
                raise ChainError("moved", code="reorganised")
            return f"report {self.count}"

        async def is_still(rpc: Any, block: Any) -> bool:
            return self.count >= steady_after

        for name, stand_in in (
            ("pin_block", pin),
            ("_check_domain", check),
            ("_audit_at", read),
            ("is_still_chain", is_still),
        ):
            monkeypatch.setattr(audit_run, name, stand_in)

    def audit(self, from_block: int | None = None) -> str:
        """Run the audit and return what it gives."""
        nobody = cast(Any, None)
        return cast(str, asyncio.run(audit_run.run_audit(nobody, DEPLOYMENT, nobody, from_block=from_block)))


@pytest.mark.parametrize("is_raising", [False, True])
def test_audit_of_a_chain_that_changed_once_is_read_again(monkeypatch: pytest.MonkeyPatch, is_raising: bool) -> None:
    """Whether the change shows in the events or at the end, only a steady reading counts."""
    assert Readings(monkeypatch, 2, is_raising=is_raising).audit() == "report 2"


def test_audit_of_a_chain_that_keeps_changing_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts, then one line that says what to do."""
    readings = Readings(monkeypatch, 99)
    with pytest.raises(ChainError, match="--block finalized"):
        readings.audit()
    assert readings.count == 3


def test_audit_from_a_block_after_the_deployment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history without its beginning proves nothing; an earlier first block does no harm."""
    with pytest.raises(BadRequest, match="from-block 8 is after"):
        Readings(monkeypatch, 1).audit(from_block=8)
    assert Readings(monkeypatch, 1).audit(from_block=3) == "report 1"
