"""Validators in a real court: secrets, a case, its panel, votes, the slash; restarts and a late reveal."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from tests.chains import RunningChain, deploy_on, open_chain
from tests.validator_world import GATEWAYS, LaneMaker, echo_checkable

from steelyard.chain.cases import CaseKind, Phase, Ruling, SecretState
from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Outcome
from steelyard.protocol.pricing import NANO_PER_YARD as NANO
from steelyard.protocol.verdicts_blob import VERDICTS_KIND
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import open_database
from steelyard.storage.verdicts import load_vote
from steelyard.validator.backroom import Backroom
from steelyard.validator.book import open_book
from steelyard.validator.case_file import encode_material
from steelyard.validator.challenges import Challenges
from steelyard.validator.checker import Checkable, check_call
from steelyard.validator.clerk import Clerk
from steelyard.validator.epochs import Epochs
from steelyard.validator.feed import FeedState, SeenCall

EPOCH_S = 1_000
TERMS = CourtTerms(reveal_s=200, commit_s=200, vote_s=200, appeal_s=200, keep_s=100, evidence_s=100)
PARAMETERS = DeploymentParameters(epoch_s=EPOCH_S, unbond_delay_s=10_000, court=TERMS)
STAKE = 1_000 * NANO
MEMBERS = 4


class Member:
    """One validator's process, without its engine: `start` gives it its life, and after that another one."""

    def __init__(self, world: Courthouse, index: int) -> None:
        self._world = world
        self._stack = AsyncExitStack()
        self.sender = Sender(world.rpc, world.chain.keys[2 + index])
        self.file = world.folder / f"validator-{index}.db"

    async def start(self) -> None:
        """Open it anew from what is on disk; what was in memory is gone, as after kill -9."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        world, domain = self._world, self._world.deployment.domain
        self.database = await open_database(f"sqlite:///{self.file}")
        self._stack.push_async_callback(self.database.aclose)
        backroom = Backroom()
        self._stack.push_async_callback(backroom.aclose)
        self.book = await open_book(self.database, world.chain.keys[2], domain, lambda: world.clock_s * 1000)
        court, key = world.court, self.sender
        escrow, ledger = EscrowClient(world.rpc, world.deployment), LedgerClient(world.rpc, world.deployment)
        self.epochs = Epochs(self.database, world.blobs, court, ledger, key, domain, ahead=2, reveal_s=TERMS.reveal_s)
        await self.epochs.open()
        challenges = Challenges(self.book, world.blobs, court, escrow, key, domain, _find, backroom)
        self.clerk = Clerk(self.database, world.blobs, court, key, domain, TERMS, _find, challenges, backroom)

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def beat(self) -> None:
        """What the process does at each beat; three, so that what is made up beside it is picked up."""
        for _ in range(3):
            now_s = await self._world.now_s()
            await self.epochs.beat(now_s)
            await self.clerk.beat(now_s)
            await asyncio.sleep(0.02)

    async def audit(self, lane: LaneMaker, *, is_lie: bool) -> None:
        """Check one answer of a lane."""
        [material] = lane.materials(
            lane.add(f"words {lane.seq}", is_lie=is_lie, finished_ms=self._world.clock_s * 1000)
        )
        order, receipt = material.order, material.receipt
        checked = await check_call(order, receipt, echo_checkable(), partial(_give, material.call), partial(_give, b""))
        epoch = self._world.clock_s // EPOCH_S
        call = SeenCall(
            order.gateway, order, receipt, receipt.struct_hash(), epoch, 0, 0, material.signed, material.receipts
        )
        found = [(call, "newcomer", checked, encode_material(material))]
        await self.book.record(order.gateway, FeedState(cursor=lane.cursor), found)


class Courthouse:
    """A real chain with a court, a staked provider and staked validators."""

    def __init__(self, chain: RunningChain, rpc: ChainRpc, deployment: Deployment, folder: Path) -> None:
        self.chain, self.rpc, self.deployment, self.folder = chain, rpc, deployment, folder
        self.court, self.registry = CourtClient(rpc, deployment), RegistryClient(rpc, deployment)
        self.blobs = FolderBlobs(folder / "blobs")
        self.provider = chain.keys[1]
        self.members = [Member(self, index) for index in range(MEMBERS)]
        self.clock_s = 0

    async def __aenter__(self) -> Courthouse:
        treasury, seller = Sender(self.rpc, self.chain.keys[0]), Sender(self.rpc, self.provider)
        await self.registry.yard.transfer(treasury, seller.account, STAKE)
        await self.registry.stake(seller, Role.PROVIDER, STAKE)
        for member in self.members:
            await self.registry.yard.transfer(treasury, member.sender.account, 2 * STAKE)
            await self.registry.stake(member.sender, Role.VALIDATOR, STAKE)
            await member.start()
        return self

    async def __aexit__(self, *told: object) -> None:
        for member in self.members:
            await member.aclose()

    async def now_s(self) -> int:
        block = await self.rpc.block("latest")
        assert block is not None
        self.clock_s = block.timestamp_s
        return self.clock_s

    async def advance_to(self, second: int) -> None:
        gap = second - await self.now_s()
        if gap > 0:
            await asyncio.to_thread(self.chain.advance_time, gap)
        await self.now_s()

    async def beat(self, *members: Member) -> None:
        for member in members or self.members:
            await member.beat()

    async def begin_epoch(self) -> int:
        """Let everybody commit, and the next epoch begin."""
        await self.beat()
        epoch = self.court.epoch_at(await self.now_s()) + 1
        await self.advance_to(epoch * EPOCH_S)
        return epoch

    async def accuse(self) -> int:
        """Let the first validator audit lies over two gateways, and open the case."""
        for gateway in GATEWAYS:
            lane = LaneMaker(gateway, key=self.provider, domain=self.deployment.domain)
            await self.members[0].audit(lane, is_lie=True)
        await self.beat(self.members[0])
        assert await self.court.fetch_case_count() == 1
        return 1

    async def case(self) -> Any:
        return (await self.court.fetch_cases([1]))[0]


async def _give(value: Any) -> Any:
    return value


async def _find(service_id: bytes) -> Checkable | None:
    return echo_checkable()


def in_court(folder: Path, story: Any) -> None:
    """Run a story in a court of its own."""

    async def run(chain: RunningChain, deployment: Deployment) -> None:
        async with ChainRpc([chain.url]) as rpc, Courthouse(chain, rpc, deployment, folder) as house:
            await story(house)

    with open_chain("embedded") as chain:
        asyncio.run(run(chain, deploy_on(chain, PARAMETERS)))


@pytest.mark.timeout(180)
def test_lies_are_challenged_judged_and_slashed_though_everybody_restarts(tmp_path: Path) -> None:
    """From audits to the slash; each validator loses its memory before each step, and nothing is lost or done twice."""

    async def story(house: Courthouse) -> None:
        epoch = await house.begin_epoch()
        secrets = [member.epochs.secret(epoch) for member in house.members]
        assert None not in secrets
        await house.accuse()
        for member in house.members:
            await member.start()
        assert [member.epochs.secret(epoch) for member in house.members] == secrets
        await house.beat()
        assert (await house.case()).phase is Phase.DRAWING
        await house.advance_to((epoch + 1) * EPOCH_S)
        await house.beat()
        accounts = [member.sender.account for member in house.members]
        shown = await house.court.fetch_secrets(accounts, epoch)
        assert [secret.value for secret in shown] == secrets
        await house.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
        await house.beat(house.members[1])
        panel, jurors = await house.court.fetch_panel(1)
        assert accounts[0] not in jurors
        seated = [member for member in house.members if member.sender.account in jurors]
        await house.beat()
        votes = [await load_vote(member.database, 1, panel.epoch) for member in seated]
        assert {None if vote is None else vote[0] for vote in votes} == {Outcome.FAIL}
        for member in house.members:
            await member.start()
        await house.beat()
        assert [await load_vote(member.database, 1, panel.epoch) for member in seated] == votes
        await house.advance_to(panel.commit_until_s)
        await house.beat()
        case = await house.case()
        assert case.phase is Phase.CONVICTED
        await house.advance_to(case.appeal_until_s)
        await house.beat()
        assert ((await house.case()).phase, (await house.case()).ruling) == (Phase.CLOSED, Ruling.CONVICTED)
        assert await house.court.fetch_at_stake(house.provider.account, Role.PROVIDER) == STAKE // 2
        await house.beat()
        assert await house.court.fetch_case_count() == 1
        await house.advance_to((epoch + 3) * EPOCH_S)
        await house.beat()
        ledger = LedgerClient(house.rpc, house.deployment)
        assert await ledger.fetch_root(accounts[0], VERDICTS_KIND, epoch) is not None

    in_court(tmp_path, story)


@pytest.mark.timeout(180)
def test_validator_that_reveals_too_late_is_fined_and_goes_on(tmp_path: Path) -> None:
    """It sits on no panel of that epoch; its other work does not stop, and the court judges without it."""

    async def story(house: Courthouse) -> None:
        epoch = await house.begin_epoch()
        await house.accuse()
        *awake, sleeper = house.members
        await house.advance_to((epoch + 1) * EPOCH_S)
        await house.beat(*awake)
        await house.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
        with structlog.testing.capture_logs() as logs:
            await house.beat(sleeper)
        assert [log["event"] for log in logs].count("secret_not_revealed_in_time") == 1
        await house.beat(*awake)
        [late] = await house.court.fetch_secrets([sleeper.sender.account], epoch)
        assert late.state is SecretState.FINED
        assert (await house.case()).phase is Phase.DRAWING
        assert (await house.case()).draws == 1  # two are too few for a panel beside the challenger: the case waits
        following = house.court.epoch_at(await house.now_s()) + 1
        assert sleeper.epochs.secret(following) is not None
        [committed] = await house.court.fetch_secrets([sleeper.sender.account], following)
        assert committed.value not in (ZERO32, sleeper.epochs.secret(following))

    in_court(tmp_path, story)


@pytest.mark.timeout(180)
def test_case_without_proof_is_acquitted_and_costs_its_bond(tmp_path: Path) -> None:
    """Whoever opens one all the same: jurors replay, find nothing, and the accused gets half of the bond."""

    async def story(house: Courthouse) -> None:
        epoch = await house.begin_epoch()
        cid = await house.blobs.put(b"no case file at all")
        stranger = house.members[0].sender
        topic = LaneMaker().lane.service_id
        await house.court.open_case(stranger, CaseKind.CHEAT, house.provider.account, topic, cid.digest)
        before = await house.registry.yard.fetch_balances([house.provider.account])
        await house.advance_to((epoch + 1) * EPOCH_S)
        await house.beat()
        await house.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
        await house.beat()
        await house.beat()
        panel, _ = await house.court.fetch_panel(1)
        await house.advance_to(panel.commit_until_s)
        await house.beat()
        assert (await house.case()).ruling is Ruling.ACQUITTED
        after = await house.registry.yard.fetch_balances([house.provider.account])
        assert after[0] - before[0] == TERMS.bond_nano // 2
        assert await house.court.fetch_at_stake(house.provider.account, Role.PROVIDER) == STAKE

    in_court(tmp_path, story)
