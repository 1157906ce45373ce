"""The pot's client on real chains: income, a root that becomes final, claims by its blob, and refusals in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain

from steelyard.chain.cases import CaseKind
from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.reward_terms import RewardTerms
from steelyard.chain.rewards import PotMoney, ProposalState, RewardsClient, topic_of
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.errors import Reverted
from steelyard.protocol.cid import cid_of
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState, sign_voucher
from steelyard.protocol.messages import Lane
from steelyard.protocol.rewards_blob import (
    add_earnings,
    build_share_proof,
    decode_rewards,
    encode_rewards,
    shares_root,
)

YARD = 10**9
TERMS = RewardTerms(challenge_s=300, purse_s=500, bond_nano=7 * YARD)
PARAMETERS = DeploymentParameters(epoch_s=100, rewards=TERMS)


@pytest.fixture(params=CHAIN_KINDS)
def chain(request: pytest.FixtureRequest) -> Iterator[RunningChain]:
    """A chain of each kind."""
    with open_chain(request.param, key_count=5) as chain:
        yield chain


async def redeem_into(deployment: Deployment, chain: RunningChain, rpc: ChainRpc, amount: int) -> None:
    """Let a gateway pay for work of which the protocol gets all."""
    owner, gateway, provider = chain.keys[:3]
    registry, escrow, sender = RegistryClient(rpc, deployment), EscrowClient(rpc, deployment), Sender(rpc, owner)
    await registry.register_service(sender, "free", "echo", keccak(b"manifest"), Split(0, 0, 0, 10_000))
    await escrow.deposit(sender, gateway.account, amount)
    lane = Lane(gateway.account, provider.account, service_id("free"), 1)
    state = LaneState(lane=lane, seq=1, head=b"\x01" * 32, count=1, cumulative=amount)
    await escrow.redeem(sender, [sign_voucher(state, gateway, deployment.domain)], ZERO32)


async def wait(chain: RunningChain, rpc: ChainRpc, seconds: int) -> int:
    """Let the chain's clock go on, and return it."""
    await asyncio.to_thread(chain.advance_time, seconds)
    block = await rpc.block("latest")
    assert block is not None
    return block.timestamp_s


def test_rewards_from_redemption_to_claim(chain: RunningChain) -> None:
    """What the protocol was paid comes in, nine tenths of it go out by the blob, the rest is burned."""
    deployment = deploy_on(chain, PARAMETERS)

    async def story() -> None:
        async with ChainRpc([chain.url]) as rpc:
            owner, validator = Sender(rpc, chain.keys[0]), Sender(rpc, chain.keys[3])
            rewards, registry = RewardsClient(rpc, deployment), RegistryClient(rpc, deployment)
            assert await rewards.fetch_terms() == TERMS
            await registry.yard.transfer(owner, validator.account, 200 * YARD)
            await registry.stake(validator, Role.VALIDATOR, 150 * YARD)
            await redeem_into(deployment, chain, rpc, 1_000 * YARD)
            epoch = rewards.epoch_at(await wait(chain, rpc, 1))
            await wait(chain, rpc, PARAMETERS.epoch_s)
            assert await rewards.fetch_cap(epoch) == 0
            await rewards.collect(owner)
            assert await rewards.fetch_cap(epoch) == 900 * YARD

            shares = add_earnings({}, {chain.keys[1].account: 500 * YARD, chain.keys[2].account: 100 * YARD})
            blob, total = encode_rewards(deployment.domain, epoch, shares), sum(shares.values())
            with pytest.raises(Reverted, match="above the 900 YARD that may be given back"):
                await rewards.propose(validator, epoch, shares_root(shares), cid_of(blob).digest, 901 * YARD)
            with pytest.raises(Reverted, match="too little stake as validator"):
                await rewards.propose(owner, epoch, shares_root(shares), cid_of(blob).digest, total)
            number = await rewards.propose(validator, epoch, shares_root(shares), cid_of(blob).digest, total)
            [pending] = await rewards.fetch_proposals([number])
            assert (pending.state, pending.epoch, pending.base) == (ProposalState.PENDING, epoch, 0)
            assert await rewards.fetch_money() == PotMoney(1_000 * YARD, 0, 0, TERMS.bond_nano)
            with pytest.raises(Reverted, match="wait until"):
                await rewards.settle(owner, number)
            await wait(chain, rpc, TERMS.challenge_s)
            assert await rewards.settle(owner, number) is ProposalState.FINAL
            assert await rewards.fetch_last_final() == number == await rewards.fetch_proposal_count()

            [final] = await rewards.fetch_proposals([number])
            found = decode_rewards(blob, deployment.domain, root=final.root, total=final.total_nano).as_shares()
            for account, cumulative in found.items():
                proof = build_share_proof(found, account)
                assert await rewards.claim(owner, number, account, cumulative, proof) == cumulative
                with pytest.raises(Reverted, match=r"was paid .* before"):
                    await rewards.claim(owner, number, account, cumulative, proof)
            assert await rewards.fetch_claimed(list(shares)) == list(shares.values())
            await rewards.burn_rest(owner)
            assert await rewards.fetch_money() == PotMoney(1_000 * YARD, 600 * YARD, 100 * YARD, 0)
            assert await registry.yard.fetch_balances([deployment.rewards]) == [300 * YARD]

    asyncio.run(story())


def test_rewards_disputed_root_waits_for_the_court(chain: RunningChain) -> None:
    """A case with the proposal's number for a topic holds it up."""
    deployment = deploy_on(chain, PARAMETERS)

    async def story() -> None:
        async with ChainRpc([chain.url]) as rpc:
            owner, validator = Sender(rpc, chain.keys[0]), Sender(rpc, chain.keys[3])
            rewards, registry = RewardsClient(rpc, deployment), RegistryClient(rpc, deployment)
            await registry.yard.transfer(owner, validator.account, 200 * YARD)
            await registry.stake(validator, Role.VALIDATOR, 150 * YARD)
            epoch = rewards.epoch_at(await wait(chain, rpc, PARAMETERS.epoch_s)) - 1
            number = await rewards.propose(validator, epoch, b"\x01" * 32, b"\x02" * 32, 0)
            court = CourtClient(rpc, deployment)
            await court.open_case(owner, CaseKind.WRONG_ROOT, validator.account, topic_of(number), b"\x03" * 32)
            await wait(chain, rpc, TERMS.challenge_s)
            with pytest.raises(Reverted, match="the court has 1 open cases against this root"):
                await rewards.settle(owner, number)
            with pytest.raises(Reverted, match=r"in state 1 \(0 unknown, 1 pending"):
                await rewards.claim(owner, number, validator.account, 1, [])

    asyncio.run(story())
