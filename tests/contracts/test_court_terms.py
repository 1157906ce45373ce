"""The court's terms: fixed at deployment, refused where stake could leave first or a panel could not decide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.contracts.world import EPOCH_S, MIN_STAKES, SALT, TERMS, WITHDRAW_DELAY_S, World

from steelyard.chain.terms import CourtTerms
from steelyard.errors import ConfigError


def test_terms_are_shown_as_they_were_given(world: World) -> None:
    """The contract's terms stand in the order of the dataclass; its parts know each other."""
    assert CourtTerms(**dict(zip(CourtTerms.__dataclass_fields__, world.court.call("terms"), strict=True))) == TERMS
    for name, contract in (("escrow", world.escrow), ("registry", world.registry), ("yard", world.yard)):
        assert world.court.call(name) == contract.address
    assert world.court.call("epochSeconds") == EPOCH_S
    assert world.proofs.call("court") == world.court.address
    assert world.proofs.call("escrow") == world.escrow.address
    assert (world.proofs.call("keepSeconds"), world.proofs.call("evidenceSeconds")) == (TERMS.keep_s, TERMS.evidence_s)


def test_unbonding_must_outlast_what_a_case_takes(world: World) -> None:
    """One second more than epoch, evidence, panel, appeal and its panel; contract and Python reckon alike."""
    needed = TERMS.needed_s(EPOCH_S)
    for delay, is_enough in ((needed, False), (needed + 1, True)):
        args = (world.yard.address, world.manager.address, SALT, delay, MIN_STAKES)
        registry = world.create("Registry", *args)
        parts = (world.yard.address, registry.address, world.manager.address, SALT, WITHDRAW_DELAY_S // 9, world.admin)
        escrow = world.create("Escrow", *parts)
        made = (escrow.address, world.ledger.address, SALT, TERMS.as_tuple())
        if is_enough:
            world.create("Court", *made)
            continue
        with world.court.refuses(f"UnbondingTooShort({needed},{needed})"):
            world.create("Court", *made)


def test_court_of_another_deployment_refused(world: World) -> None:
    """Signatures under one domain can't be judged under another."""
    with world.court.refuses("WrongContracts()"):
        world.create("Court", world.escrow.address, world.ledger.address, b"\1" * 32, TERMS.as_tuple())


@pytest.mark.parametrize(
    "change",
    [
        *[{name: 0} for name in CourtTerms.__dataclass_fields__ if name != "fine_nano"],
        {"panel_quorum": 3},
        {"panel_quorum": 8},
        {"appeal_quorum": 7},
        {"appeal_quorum": 16},
        {"appeal_size": 6, "appeal_quorum": 5},
        {"appeal_size": 65, "appeal_quorum": 60},
        {"slash_bps": 10_001},
        {"fault_bps": 10_001},
    ],
)
def test_terms_out_of_bounds_are_refused_by_contract_and_python(world: World, change: dict[str, Any]) -> None:
    """Both refuse the same: no time, no bond, no majority, more than all."""
    names = list(CourtTerms.__dataclass_fields__)
    values = list(TERMS.as_tuple())
    for name, value in change.items():
        values[names.index(name)] = value
    with world.court.refuses("BadTerms()"):
        world.create("Court", world.escrow.address, world.ledger.address, SALT, tuple(values))
    with pytest.raises(ConfigError, match="court\\."):
        replace(TERMS, **change)


def test_terms_without_a_fine_are_accepted(world: World) -> None:
    """A network may fine nobody."""
    free = replace(TERMS, fine_nano=0)
    world.create("Court", world.escrow.address, world.ledger.address, SALT, free.as_tuple())
