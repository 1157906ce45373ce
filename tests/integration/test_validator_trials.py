"""Validators before their own court: a lazy one and a greedy one, from what they published to the slash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.chains import RunningChain, deploy_on, open_chain
from tests.integration.test_validator_court import (
    EPOCH_S,
    PARAMETERS,
    STAKE,
    TERMS,
    Courthouse,
    Member,
    _find,
)
from tests.validator_world import GATEWAYS, MODEL, SERVICE, LaneMaker

from steelyard.chain.cases import NO_TOPIC, Case, CaseKind, Phase, Ruling
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.registry import Role, Split
from steelyard.chain.rewards import ProposalState, RewardsClient, topic_of
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.errors import Reverted
from steelyard.protocol.cid import Cid
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.lanes import LaneState, sign_voucher
from steelyard.protocol.messages import Grade, Lane, Offer, Outcome, Verdict
from steelyard.protocol.pricing import NANO_PER_YARD as NANO
from steelyard.protocol.rewards_blob import build_share_proof, decode_rewards, encode_rewards, shares_root
from steelyard.protocol.signing import SigningKey
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, encode_verdicts, verdicts_root
from steelyard.storage.verdicts import VerdictRow, load_vote
from steelyard.validator.backroom import Backroom
from steelyard.validator.book import open_book
from steelyard.validator.clerk import Clerk
from steelyard.validator.cuts import Cuts
from steelyard.validator.lazy import LazyWatch
from steelyard.validator.quality import NetworkQuality
from steelyard.validator.record import LedgerRecord
from steelyard.validator.rewards import RewardDesk, RewardRoots
from steelyard.validator.stakes import ValidatorStakes

MEMBERS = 5
"""Accused and challenger don't sit, and three is the least that a panel is drawn from."""


class Judge(Member):
    """A validator's process that judges other validators, too; `is_idle`: it compares nothing and accuses nobody."""

    is_idle = False

    async def start(self) -> None:
        """Open it anew from what is on disk."""
        await super().start()
        world, deployment = self._world, self._world.deployment
        rpc, court, blobs, domain = world.rpc, world.court, world.blobs, deployment.domain
        backroom = Backroom()
        self._stack.push_async_callback(backroom.aclose)
        self.book = await open_book(self.database, self.key, domain, lambda: world.clock_s * 1000)
        stakes = ValidatorStakes(world.registry, self._validators, EPOCH_S)
        ledger, rewards = LedgerClient(rpc, deployment), RewardsClient(rpc, deployment)
        self._record = LedgerRecord(rpc, ledger, stakes, blobs, domain, deployment.block)
        quality = NetworkQuality(rpc, court, stakes, self._record, deployment.block)
        roots = RewardRoots(rewards, quality, Cuts(rpc, deployment), blobs, domain)
        self._lazy = LazyWatch(self.book, self._record, blobs, court, self.sender, domain, _find, is_challenging=True)
        self._desk = RewardDesk(roots, rewards, court, blobs, self.sender, self._validators, is_challenging=True)
        judges = {CaseKind.LAZY: self._lazy.judge_case, CaseKind.WRONG_ROOT: roots.judge_case}
        self.clerk = Clerk(self.database, blobs, court, self.sender, domain, TERMS, _find, None, backroom, judges)

    async def beat(self) -> None:
        """What the process does at each beat."""
        await super().beat()
        if not self.is_idle:
            await self._record.refresh()
            await self._lazy.beat()
            await self._desk.beat(await self._world.now_s())

    @property
    def key(self) -> SigningKey:
        """Its wallet's key."""
        return next(key for key in self._world.chain.keys if key.account == self.sender.account)

    async def _validators(self) -> list[bytes]:
        return [member.sender.account for member in self._world.members]


class Trial(Courthouse):
    """A court whose validators judge each other."""

    members: list[Judge]  # type: ignore[assignment]

    def __init__(self, chain: RunningChain, rpc: ChainRpc, deployment: Deployment, folder: Path) -> None:
        super().__init__(chain, rpc, deployment, folder)
        self.members = [Judge(self, index) for index in range(MEMBERS)]

    async def wallet(self, member: Judge) -> int:
        """What a member holds beside its stake, in nano."""
        return (await self.registry.yard.fetch_balances([member.sender.account]))[0]

    async def judge(self, accused: Judge) -> Case:
        """Carry the only case through draw, commitments, votes and the time to appeal; return it as it ended."""
        case: Case = await self.case()
        await self.advance_to((case.epoch + 1) * EPOCH_S)
        await self.beat()
        await self.advance_to((case.epoch + 1) * EPOCH_S + TERMS.reveal_s)
        await self.beat()
        panel, jurors = await self.court.fetch_panel(1)
        assert (await self.case()).phase is Phase.VOTING
        assert not {accused.sender.account, case.challenger} & set(jurors)
        seated = [member for member in self.members if member.sender.account in jurors]
        votes = [await load_vote(member.database, 1, panel.epoch) for member in seated]
        assert {None if vote is None else vote[0] for vote in votes} == {Outcome.FAIL}
        await self.advance_to(panel.commit_until_s)
        await self.beat()
        case = await self.case()
        assert case.phase is Phase.CONVICTED
        assert await self.court.fetch_at_stake(accused.sender.account, Role.VALIDATOR) == STAKE
        await self.advance_to(case.appeal_until_s)
        await self.beat()
        return await self.case()  # type: ignore[no-any-return]


Story = Callable[[Trial], Awaitable[None]]


async def _publish_pass(house: Trial, lazy: Judge, row: VerdictRow) -> None:
    """Sign and post a PASS on an answer that was never looked at."""
    domain = house.deployment.domain
    verdict = Verdict(lazy.sender.account, row.receipt_hash, int(Outcome.PASS), ZERO32, row.epoch)
    signature = lazy.key.sign(domain.digest(verdict.struct_hash()))
    published = [PublishedVerdict(verdict, signature, row.provider, row.service_id, row.gateway, "rate", "", 0, 0)]
    cid = await house.blobs.put(encode_verdicts(domain, lazy.sender.account, row.epoch, published))
    ledger = LedgerClient(house.rpc, house.deployment)
    await ledger.post(lazy.sender, VERDICTS_KIND, row.epoch, verdicts_root(published), cid.digest, 1)


async def _redeem(house: Trial, amount: int) -> None:
    """Let a gateway pay the provider for exact work, of which the protocol gets a fifth."""
    owner, gateway, domain = Sender(house.rpc, house.chain.keys[0]), house.chain.keys[8], house.deployment.domain
    escrow, digest = EscrowClient(house.rpc, house.deployment), keccak(b"manifest")
    await house.registry.register_service(owner, MODEL, "echo", digest, Split(7_000, 1_000, 0, 2_000))
    offer = Offer(house.provider.account, SERVICE, 1_000_000, 1_000_000, int(Grade.EXACT), digest, 1)
    signature = house.provider.sign(domain.digest(offer.struct_hash()))
    await house.registry.set_offer(Sender(house.rpc, house.provider), offer, signature)
    await escrow.deposit(owner, gateway.account, amount)
    lane = Lane(gateway.account, house.provider.account, SERVICE, 1)
    state = LaneState(lane=lane, seq=1, head=b"\x01" * 32, count=1, cumulative=amount)
    await escrow.redeem(owner, [sign_voucher(state, gateway, domain)], ZERO32)


async def _hold(chain: RunningChain, deployment: Deployment, folder: Path, story: Story) -> None:
    async with ChainRpc([chain.url]) as rpc:
        house = Trial(chain, rpc, deployment, folder)
        async with house:
            await story(house)


def on_trial(folder: Path, story: Story) -> None:
    """Run a story in a court of its own."""
    with open_chain("embedded") as chain:
        asyncio.run(_hold(chain, deploy_on(chain, PARAMETERS), folder, story))


@pytest.mark.timeout(180)
def test_lazy_validator_is_judged_by_replay_and_slashed_once(tmp_path: Path) -> None:
    """A PASS on a planted lie costs half of its stake, of which the finder gets a tenth; the plant costs nothing."""

    async def story(house: Trial) -> None:
        epoch = await house.begin_epoch()
        planter, lazy, *_ = house.members
        lazy.is_idle = True
        await planter.audit(LaneMaker(GATEWAYS[0], key=house.provider, domain=house.deployment.domain), is_lie=True)
        [row] = await planter.book.verdicts(epoch)
        await house.advance_to((epoch + 1) * EPOCH_S)
        await house.beat()
        await _publish_pass(house, lazy, row)
        assert await house.court.fetch_case_count() == 0
        before, supply = await house.wallet(planter), await house.registry.yard.fetch_total_supply()
        await house.beat()
        case = await house.case()
        assert (case.kind, case.accused, case.topic) == (CaseKind.LAZY, lazy.sender.account, NO_TOPIC)
        assert case.challenger == planter.sender.account

        case = await house.judge(lazy)
        assert (case.phase, case.ruling) == (Phase.CLOSED, Ruling.CONVICTED)
        slashed = STAKE // 2
        assert await house.court.fetch_at_stake(lazy.sender.account, Role.VALIDATOR) == STAKE - slashed
        assert await house.wallet(planter) - before == slashed // 10
        assert supply - await house.registry.yard.fetch_total_supply() == slashed - slashed // 10
        assert await house.court.fetch_at_stake(house.provider.account, Role.PROVIDER) == STAKE
        await planter.start()
        await house.beat()
        assert await house.court.fetch_case_count() == 1

    on_trial(tmp_path, story)


@pytest.mark.timeout(180)
def test_greedy_proposer_is_judged_by_recomputing_and_its_root_is_void(tmp_path: Path) -> None:
    """Half of the stake and the bond are lost, and nothing claimed, though its time was over before anyone looked."""

    async def story(house: Trial) -> None:
        epoch = await house.begin_epoch()
        greedy = house.members[1]
        greedy.is_idle = True
        rewards = RewardsClient(house.rpc, house.deployment)
        await _redeem(house, 1_000 * NANO)
        await house.advance_to((epoch + 1) * EPOCH_S)
        await rewards.collect(greedy.sender)
        loot = {greedy.sender.account: 100 * NANO}
        cid = await house.blobs.put(encode_rewards(house.deployment.domain, epoch, loot))
        wrong = await rewards.propose(greedy.sender, epoch, shares_root(loot), cid.digest, 100 * NANO)
        [pending] = await rewards.fetch_proposals([wrong])
        await house.advance_to(pending.ready_at_s + 40)  # everybody slept
        await house.beat()
        case = await house.case()
        assert (case.kind, case.accused, case.topic) == (CaseKind.WRONG_ROOT, greedy.sender.account, topic_of(wrong))
        assert await house.court.fetch_case_count() == 1
        assert await rewards.fetch_proposal_count() == 2

        case = await house.judge(greedy)
        assert (case.phase, case.ruling) == (Phase.CLOSED, Ruling.CONVICTED)
        assert await house.court.fetch_at_stake(greedy.sender.account, Role.VALIDATOR) == STAKE - STAKE // 2
        await house.beat()
        voided, right = await rewards.fetch_proposals([1, 2])
        assert (voided.state, right.state) == (ProposalState.VOID, ProposalState.FINAL)
        with pytest.raises(Reverted):
            await rewards.claim(greedy.sender, wrong, greedy.sender.account, 100 * NANO, [])
        blob = await house.blobs.get(Cid(right.cid))
        shares = decode_rewards(blob, house.deployment.domain, root=right.root, total=right.total_nano).as_shares()
        assert shares == {house.provider.account: 200 * NANO * 9 // 10 // 20}  # a newcomer's quality is a twentieth
        [(account, earned)] = shares.items()
        proof = build_share_proof(shares, account)
        assert await rewards.claim(greedy.sender, 2, account, earned, proof) == earned
        assert (await rewards.fetch_money()).bonds_nano == 0

    on_trial(tmp_path, story)
