"""What the gateway reads of a real chain: its deposit and lanes at one block, stakes, services, offers."""

from __future__ import annotations

import asyncio

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain

from steelyard.chain.escrow import EscrowClient
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.gateway.chain_reader import ChainReader
from steelyard.gateway.chain_view import LanePaid, OfferTerms
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState, extend_lane, sign_voucher
from steelyard.protocol.messages import Lane, Offer
from steelyard.protocol.pricing import NANO_PER_YARD

MANIFEST = b"\x07" * 32


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_chain_reader_sees_stakes_offers_and_payments(kind: str) -> None:
    """Before and after staking, offering, depositing and redeeming, against the real contracts."""
    with open_chain(kind) as chain:
        asyncio.run(_story(chain))


async def _story(chain: RunningChain) -> None:
    deployment = await asyncio.to_thread(deploy_on, chain)
    gateway, provider = chain.keys[0], chain.keys[1]
    async with ChainRpc([chain.url]) as rpc:
        reader = ChainReader(rpc, deployment)
        registry, escrow = RegistryClient(rpc, deployment), EscrowClient(rpc, deployment)
        mine, theirs = Sender(rpc, gateway), Sender(rpc, provider)
        ident = service_id("echo-1")
        lane = Lane(gateway.account, provider.account, ident, 7)
        empty = await reader.fetch_position(gateway.account, [lane.key])
        assert (empty.escrow.deposit_nano, empty.lanes) == (0, (LanePaid(0, 0),))
        assert await reader.fetch_service(ident) is None
        assert await reader.fetch_offer(provider.account, ident) is None
        assert not await reader.fetch_is_active(provider.account)

        minimum = max([await registry.fetch_min_stake(role) for role in (Role.PROVIDER, Role.GATEWAY)])
        await registry.stake_for(mine, provider.account, Role.PROVIDER, minimum)
        await registry.stake(mine, Role.GATEWAY, minimum)
        await registry.register_service(mine, "echo-1", "echo", MANIFEST, Split(9000, 500, 0, 500))
        offer = Offer(provider.account, ident, 10, 20, 4, MANIFEST, 1)
        signature = provider.sign(deployment.domain.digest(offer.struct_hash()))
        await registry.set_offer(mine, offer, signature)
        await escrow.deposit(mine, gateway.account, NANO_PER_YARD)
        assert await reader.fetch_is_active(provider.account)
        assert await reader.fetch_stake(provider.account) == minimum
        assert await reader.fetch_offer(provider.account, ident) == OfferTerms(10, 20, 4, MANIFEST, 1)
        service = await reader.fetch_service(ident)
        assert service is not None
        assert (service.name, service.kind, service.manifest) == ("echo-1", "echo", MANIFEST)

        state, _ = extend_lane(LaneState(lane=lane), [b"\x01" * 32], [1234], provider, deployment.domain)
        await escrow.redeem(theirs, [sign_voucher(state, gateway, deployment.domain)])
        paid = await reader.fetch_position(gateway.account, [lane.key])
        assert paid.lanes == (LanePaid(1234, 1234),)
        assert paid.escrow.deposit_nano == NANO_PER_YARD - 1234
        assert paid.escrow.stake_nano == minimum
        assert paid.budget_nano() == NANO_PER_YARD
