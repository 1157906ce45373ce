"""Evidence that isn't served: asked again, demanded on chain, read there, or slashed; whatever restarts between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.chains import deploy_on, open_chain
from tests.trust_world import PARAMETERS, PROVIDER, TERMS, VALIDATOR, YARD, TrustWorld, open_trust_world

from steelyard.chain.proofs import DemandState, demand_id
from steelyard.chain.registry import Role
from steelyard.protocol.messages import Outcome
from steelyard.storage.verdicts import load_verdicts
from steelyard.storage.waiting import load_waiting
from steelyard.validator.demands import Step
from steelyard.validator.feed import SeenCall


async def _beat_until(world: TrustWorld, step: Step | None) -> None:
    """Beat until the one check that waits is so far, or (None) no more waits."""
    async with asyncio.timeout(40):
        while True:
            steps = [row.step for row in await load_waiting(world.database)]
            if steps == ([] if step is None else [step]):
                return
            await world.demands.beat(world.now_s())
            await asyncio.sleep(0.2)


async def _state(world: TrustWorld, call: SeenCall) -> DemandState:
    return (await world.proofs.fetch_demand(demand_id(PROVIDER.account, call.receipt_hash))).state


def test_evidence_that_is_withheld_is_demanded_and_judged_as_if_it_had_been_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay is silent twice, the chain makes the node answer; a validator that restarted reads it and judges."""
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 0.3)
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                served = await world.chat("served")
                assert await world.check(served) == "no_calibration"
                monkeypatch.setattr(world.node._desk, "ask", lambda link, receipt_hash: None)
                call = await world.chat("withheld")
                before = await world.registry.yard.fetch_balance(VALIDATOR.account)
                assert await world.check(call) == "waits"
                assert await world.book.unjudged([call, served]) == []
                await _beat_until(world, Step.OPEN)
                await world.reopen()
                await _beat_until(world, None)
                assert await _state(world, call) is DemandState.SERVED
                rows = await load_verdicts(world.database)
                assert [(row.receipt_hash, row.reason) for row in rows] == [
                    (served.receipt_hash, "no_calibration"),
                    (call.receipt_hash, "no_calibration"),
                ]
                assert rows[1].evidence_hash == call.receipt.evidence_hash
                spent = before - await world.registry.yard.fetch_balance(VALIDATOR.account)
                assert spent == TERMS.demand_bond_nano

        asyncio.run(story())


def test_silence_on_chain_is_a_fail_and_costs_stake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers neither the relay nor the chain is slashed by half, the bond comes back, and no suspicion moves."""
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 0.3)

    async def look_away() -> None:
        return None

    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                monkeypatch.setattr(world.node._desk, "ask", lambda link, receipt_hash: None)
                monkeypatch.setattr(world.node._demands, "look", look_away)
                call = await world.chat("hidden")
                assert await world.check(call) == "waits"
                await _beat_until(world, None)
                assert await _state(world, call) is DemandState.SILENT
                assert await world.registry.fetch_stake(PROVIDER.account, Role.PROVIDER) == 5 * YARD
                [row] = await load_verdicts(world.database)
                assert (row.outcome, row.reason, row.micro_nats) == (int(Outcome.FAIL), "silent", 0)
                assert world.book.suspicions == {}

        asyncio.run(story())


def test_call_without_consent_abstains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that keeps the call no more can't let it be demanded: the validator's lack, and no demand is sent."""
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 0.3)
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                monkeypatch.setattr(world.node._desk, "ask", lambda link, receipt_hash: None)
                call = await world.chat("forgotten")
                assert await world.check(call) == "waits"
                await _beat_until(world, Step.WANTED)
                world.running.gateway.settlement.store._keep_s = 0.0
                await _beat_until(world, None)
                assert await _state(world, call) is DemandState.NONE
                [row] = await load_verdicts(world.database)
                assert (row.outcome, row.reason) == (int(Outcome.ABSTAIN), "no_evidence")

        asyncio.run(story())
