"""What redemptions bring to the pot of rewards: by epoch and provider, and nothing for work that nobody can check."""

from __future__ import annotations

import asyncio

from tests.chains import RunningChain, deploy_on, open_chain

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState, sign_voucher
from steelyard.protocol.messages import Grade, Lane, Offer
from steelyard.protocol.pricing import NANO_PER_YARD as NANO
from steelyard.validator.cuts import Cuts

SERVICE = service_id("work")
DIGEST = keccak(b"manifest")


def test_cut_counts_for_checked_grades_alone() -> None:
    """A fifth of the price where an answer can be checked; nothing at `unchecked`, `logprobs` or without an offer."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with ChainRpc([chain.url]) as rpc:
            owner, gateway, *providers = chain.keys[:6]
            sender, escrow, registry = (
                Sender(rpc, owner),
                EscrowClient(rpc, deployment),
                RegistryClient(rpc, deployment),
            )
            await registry.register_service(sender, "work", "chat", DIGEST, Split(7_000, 1_000, 0, 2_000))
            await escrow.deposit(sender, gateway.account, 400 * NANO)
            for key, grade in zip(providers, (Grade.STATISTICAL, Grade.LOGPROBS, Grade.UNCHECKED, None), strict=True):
                await registry.yard.transfer(sender, key.account, 100 * NANO)
                await registry.stake(Sender(rpc, key), Role.PROVIDER, 100 * NANO)
                if grade is not None:
                    offer = Offer(key.account, SERVICE, 1, 1, int(grade), DIGEST, 1)
                    signature = key.sign(deployment.domain.digest(offer.struct_hash()))
                    await registry.set_offer(Sender(rpc, key), offer, signature)
                lane = Lane(gateway.account, key.account, SERVICE, 1)
                state = LaneState(lane=lane, seq=1, head=b"\x01" * 32, count=1, cumulative=100 * NANO)
                await escrow.redeem(sender, [sign_voucher(state, gateway, deployment.domain)], ZERO32)
            cuts = Cuts(rpc, deployment)
            await cuts.refresh()
            await cuts.refresh()
            block = await rpc.block("latest")
            assert block is not None
            [epoch] = cuts.epochs(0, block.timestamp_s // deployment.epoch_s)
            assert cuts.of_epoch(epoch) == {(providers[0].account, SERVICE): 20 * NANO}

    with open_chain("embedded") as chain:
        asyncio.run(story(chain, deploy_on(chain, DeploymentParameters())))
