"""Evidence demanded on chain: a node answers whoever demands, whatever happened to it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.chains import deploy_on, open_chain
from tests.link_world import DOMAIN, GATEWAY_KEY, PROVIDER_KEY, until
from tests.node_twins import SERVICE_NAME, Ordered
from tests.node_world import NodeWorld, build_letters, offer_service, open_node_world

from steelyard.chain import proofs as chain_proofs
from steelyard.chain.deployment import Deployment
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.proofs import BatchedReceipt, DemandState, ProofsClient, demand_id
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.errors import ConfigError
from steelyard.node.chain_view import ContractChain
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.pricing import NANO_PER_YARD
from steelyard.services.chat import ChatService
from steelyard.storage.node_evidence import forget_evidence

YARD = NANO_PER_YARD
TERMS = CourtTerms(reveal_s=1, commit_s=1, vote_s=1, appeal_s=1, keep_s=600, evidence_s=4)
PARAMETERS = DeploymentParameters(
    withdraw_delay_s=60, unbond_delay_s=2_000, epoch_s=10, min_stakes_nano=(YARD,) * 3, court=TERMS, salt=DOMAIN.salt
)


@dataclass
class Desk:
    """A node on a real chain, and its gateway's clients there."""

    world: NodeWorld
    proofs: ProofsClient
    registry: RegistryClient
    gateway: Sender
    rpc: ChainRpc

    async def answer(self, text: str = "hello") -> Ordered:
        """Have one chat answered and batched."""
        before = len(self.world.gateway.batches)
        body = b'{"model":"echo-1","messages":[{"role":"user","content":"%s"}],"max_tokens":40}' % text.encode()
        call = self.world.order(text, body=body, max_cost=10_000, grade=2)
        await call.ended.wait()
        assert call.receipt is not None, call.failure
        await until(lambda: len(self.world.gateway.batches) > before)
        return call

    async def demand(self, call: Ordered) -> bytes:
        """Demand a call's evidence as its gateway."""
        assert call.receipt is not None
        signed, ids = self.world.gateway.batches[-1][0], [call.receipt.struct_hash()]
        return await self.proofs.demand_evidence(self.gateway, BatchedReceipt.build(signed, ids, call.receipt))

    async def wait_state(self, id_: bytes, state: DemandState) -> None:
        """Wait until a demand is so far."""
        async with asyncio.timeout(20):
            while (await self.proofs.fetch_demand(id_)).state is not state:  # noqa: ASYNC110  # it is on a chain
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _open(
    folder: Path, url: str, owner: Sender, deployment: Deployment, **settings: float
) -> AsyncIterator[Desk]:
    async with ChainRpc([url]) as rpc:
        registry = RegistryClient(rpc, deployment)
        gateway, provider = Sender(rpc, GATEWAY_KEY), Sender(rpc, PROVIDER_KEY)
        for key in (GATEWAY_KEY, PROVIDER_KEY):
            await owner.send(key.account, value_wei=10**18)
            await registry.yard.transfer(owner, key.account, 100 * YARD)
        await registry.stake(gateway, Role.GATEWAY, 2 * YARD)
        await registry.set_gateway(gateway, "http://127.0.0.1:1")
        await registry.stake(provider, Role.PROVIDER, 10 * YARD)
        offered = offer_service(build_letters(), apis=ChatService.apis)
        signed = offered.signed_offer
        await registry.register_service(
            owner, SERVICE_NAME, "chat", signed.offer.manifest, Split(9_000, 500, 0, 500), b"\x00" * 20
        )
        await registry.set_offer(provider, signed.offer, signed.signature)
        view = ContractChain(rpc, deployment, provider, poll_s=0.1)
        async with open_node_world(folder, view=view, services=[offered], **settings) as world:
            yield Desk(world, ProofsClient(rpc, deployment), registry, gateway, rpc)


def test_demanded_evidence_is_served_in_parts_and_by_a_node_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each demand is answered whole with what the receipt commits to, and the bonds go to the provider."""
    monkeypatch.setattr(chain_proofs, "SERVE_CHUNKS", 1)
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with (
                ChainRpc([chain.url]) as rpc,
                _open(tmp_path, chain.url, Sender(rpc, chain.keys[0]), deployment) as desk,
            ):
                yard = desk.registry.yard
                call = await desk.answer()
                before = await yard.fetch_balance(PROVIDER_KEY.account)
                first = await desk.demand(call)
                await desk.wait_state(first, DemandState.SERVED)
                assert await yard.fetch_balance(PROVIDER_KEY.account) == before + TERMS.demand_bond_nano

                later = await desk.answer("goodbye")
                await desk.world.kill_node()
                second = await desk.demand(later)
                desk.world.gateway.up.clear()
                desk.world.view = ContractChain(desk.rpc, deployment, Sender(desk.rpc, PROVIDER_KEY), poll_s=0.1)
                await desk.world.start_node()
                await desk.wait_state(second, DemandState.SERVED)
                logs = await desk.rpc.get_logs([deployment.proofs], deployment.block, await desk.rpc.block_number())
                served = [event for event in desk.proofs.decode_events(logs) if event.name == "EvidenceServed"]
                for one in (call, later):
                    assert one.receipt is not None
                    id_ = demand_id(PROVIDER_KEY.account, one.receipt.struct_hash())
                    chunks = [
                        chunk for event in served if event.values["id"] == id_ for chunk in event.values["chunks"]
                    ]
                    assert evidence_root(b"".join(chunks)) == one.receipt.evidence_hash
                assert len(served) > 2

        asyncio.run(story())


def test_lost_evidence_is_told_once_and_the_silence_is_slashed(tmp_path: Path) -> None:
    """A node without the evidence can't answer: after the deadline anyone closes the demand, and stake is gone."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with (
                ChainRpc([chain.url]) as rpc,
                _open(tmp_path, chain.url, Sender(rpc, chain.keys[0]), deployment) as desk,
            ):
                call = await desk.answer()
                await forget_evidence(desk.world.database, now_ms=2**62)
                id_ = await desk.demand(call)
                demand = await desk.proofs.fetch_demand(id_)
                await asyncio.sleep(max(0.0, demand.until_s + 1 - time.time()))
                await desk.proofs.close_demand(desk.gateway, id_)
                assert (await desk.proofs.fetch_demand(id_)).state is DemandState.SILENT
                assert await desk.registry.fetch_stake(PROVIDER_KEY.account, Role.PROVIDER) == 5 * YARD
                await until(lambda: desk.world.node._demands._hopeless)

        asyncio.run(story())


def test_node_that_would_forget_too_soon_does_not_start(tmp_path: Path) -> None:
    """The setting must reach over the court's times; the refusal names both numbers."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            world.chain.keep_s = 7_201
            with pytest.raises(ConfigError, match="evidence may be needed for 7201 s"):
                await world.node.open()

    asyncio.run(story())
