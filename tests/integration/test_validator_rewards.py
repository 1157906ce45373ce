"""Reward roots on a real chain: what redemptions paid, times quality; proposed, settled, claimed, and challenged."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.chains import deploy_on, open_chain
from tests.trust_world import PARAMETERS, PROVIDER, VALIDATOR, TrustWorld, open_trust_world
from tests.validator_office import OTHER, PAIR, Office, second_validator

from steelyard.chain.cases import CaseKind
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.rewards import ProposalState, RewardsClient, topic_of
from steelyard.chain.sender import Sender
from steelyard.errors import NotProvable, Reverted
from steelyard.protocol.cid import Cid
from steelyard.protocol.messages import Outcome
from steelyard.protocol.rewards_blob import build_share_proof, decode_rewards, encode_rewards, shares_root
from steelyard.storage.blobs import FolderBlobs
from steelyard.validator.cuts import Cuts
from steelyard.validator.rewards import RewardDesk, RewardRoots


class Treasury(Office):
    """A validator's part in rewards, too."""

    def __init__(self, world: TrustWorld, sender: Sender, blobs: FolderBlobs) -> None:
        super().__init__(world, sender, blobs)
        self.rewards = RewardsClient(world.rpc, world.deployment)
        cuts = Cuts(world.rpc, world.deployment)
        self.roots = RewardRoots(self.rewards, self.quality, cuts, blobs, world.deployment.domain)
        self.desk = RewardDesk(
            self.roots, self.rewards, self.court, blobs, sender, self.validators, is_challenging=True
        )

    async def settle(self, number: int) -> None:
        """Wait until a proposal's time is over, and beat."""
        [proposal] = await self.rewards.fetch_proposals([number])
        await asyncio.sleep(max(0.0, proposal.ready_at_s + 0.2 - time.time()))
        await self.desk.beat(proposal.ready_at_s)


async def _earn(world: TrustWorld) -> int:
    """Have some chats answered and redeemed; return what the lanes were paid."""
    escrow = EscrowClient(world.rpc, world.deployment)
    call = await world.chat("work", tokens=40)
    for number in range(4):
        await world.chat(f"more work {number}", tokens=40)
    async with asyncio.timeout(30):
        while True:
            lane = await escrow.fetch_lane(call.order.lane.key)
            if lane.paid_nano >= 5 * call.receipt.cost // 2:
                return lane.paid_nano
            await asyncio.sleep(0.2)


def test_root_gives_back_the_cut_by_quality_and_is_claimed(tmp_path: Path) -> None:
    """At most nine tenths of a fifth of the price, times 36.6 %; the second validator agrees and proposes nothing."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                blobs = FolderBlobs(tmp_path / "blobs")
                other = await second_validator(world)
                one, two = Treasury(world, world.validator, blobs), Treasury(world, other, blobs)
                await one.publish(one.epoch() - 2, [Outcome.PASS] * 10)
                await _earn(world)
                await one.next_epoch()
                epoch = await one.next_epoch()
                late_s = (epoch + 2) * one.ledger.epoch_s - 1
                await one.desk.beat(late_s)
                await two.desk.beat(late_s)
                assert await one.rewards.fetch_proposal_count() == 1
                [proposal] = await one.rewards.fetch_proposals([1])
                assert proposal.proposer == VALIDATOR.account
                lane_paid = sum(one.roots._cuts.of_epoch(at)[PAIR] for at in one.roots._cuts.epochs(0, epoch)) * 5
                quality = (10 + 1) * 10**6 // (10 + 20)
                most = lane_paid // 5 * 9 * quality // (10 * 10**6)
                assert most * 9 // 10 < proposal.total_nano <= most  # it forgets a little each epoch

                await two.settle(1)
                assert (await one.rewards.fetch_proposals([1]))[0].state is ProposalState.FINAL
                raw = await blobs.get(Cid(proposal.cid))
                shares = decode_rewards(
                    raw, deployment.domain, root=proposal.root, total=proposal.total_nano
                ).as_shares()
                assert shares == {PROVIDER.account: proposal.total_nano}
                proof = build_share_proof(shares, PROVIDER.account)
                paid = await one.rewards.claim(world.validator, 1, PROVIDER.account, proposal.total_nano, proof)
                assert paid == proposal.total_nano

        asyncio.run(story())


def test_wrong_root_is_challenged_and_not_settled(tmp_path: Path) -> None:
    """A proposer that gives itself the pot is taken to court, jurors find it guilty, and the right root goes beside."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                blobs = FolderBlobs(tmp_path / "blobs")
                other = await second_validator(world)
                one, two = Treasury(world, world.validator, blobs), Treasury(world, other, blobs)
                await one.publish(one.epoch() - 2, [Outcome.PASS] * 10)
                await _earn(world)
                await one.next_epoch()
                epoch = await one.next_epoch()
                await two.rewards.collect(other)
                greedy = {OTHER.account: 5}
                cid = await blobs.put(encode_rewards(deployment.domain, epoch, greedy))
                number = await two.rewards.propose(other, epoch, shares_root(greedy), cid.digest, 5)
                assert await one.roots.judge(number) is Outcome.FAIL
                assert await one.roots.judge(99) is Outcome.PASS
                await one.desk.beat((epoch + 2) * one.ledger.epoch_s - 1)
                standing = await one.court.fetch_standing(CaseKind.WRONG_ROOT, OTHER.account, topic_of(number))
                assert standing.open_cases == 1
                assert await one.rewards.fetch_proposal_count() == 2
                await one.settle(2)
                assert [one.state for one in await one.rewards.fetch_proposals([1, 2])] == [
                    ProposalState.PENDING,
                    ProposalState.FINAL,
                ]
                with pytest.raises(Reverted, match="open cases"):
                    await two.rewards.settle(other, number)

        asyncio.run(story())


def test_root_whose_verdicts_are_missing_is_neither_proposed_nor_judged(tmp_path: Path) -> None:
    """Nothing is guessed: the epoch is not provable, and a juror abstains."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                one = Treasury(world, world.validator, FolderBlobs(tmp_path / "blobs"))
                await one.publish(one.epoch() - 2, [Outcome.PASS], is_kept=False)
                await _earn(world)
                await one.next_epoch()
                epoch = await one.next_epoch()
                with pytest.raises(NotProvable):
                    await one.roots.compute(0, epoch)
                await one.desk.beat((epoch + 2) * one.ledger.epoch_s - 1)
                assert await one.rewards.fetch_proposal_count() == 0

        asyncio.run(story())
