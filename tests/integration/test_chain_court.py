"""The court's client on real chains: a case from secrets to slash, and one that waits for validators."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain

from steelyard.chain.cases import NO_TOPIC, CaseKind, Phase, Ruling, SecretState, vote_commitment
from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.errors import Reverted
from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Outcome
from steelyard.protocol.pricing import NANO_PER_YARD as NANO
from steelyard.verification.panel import Revealer, draw_panel

EPOCH_S = 1_000
TERMS = CourtTerms(reveal_s=200, commit_s=200, vote_s=200, appeal_s=200, keep_s=100, evidence_s=100)
PARAMETERS = DeploymentParameters(epoch_s=EPOCH_S, unbond_delay_s=10_000, court=TERMS)
EVIDENCE = keccak(b"evidence")
STAKE = 1_000 * NANO


@dataclass
class Room:
    """A court with three staked validators, a provider and a challenger."""

    chain: RunningChain
    rpc: ChainRpc
    deployment: Deployment

    def __post_init__(self) -> None:
        self.court = CourtClient(self.rpc, self.deployment)
        self.registry = RegistryClient(self.rpc, self.deployment)
        self.treasury, self.provider, self.challenger, *self.validators = [
            Sender(self.rpc, key) for key in self.chain.keys[:6]
        ]

    async def prepare(self) -> None:
        """Fund and stake everybody."""
        yard = self.registry.yard
        for sender in (self.provider, self.challenger, *self.validators):
            await yard.transfer(self.treasury, sender.account, 2 * STAKE)
        await self.registry.stake(self.provider, Role.PROVIDER, STAKE)
        for sender in self.validators:
            await self.registry.stake(sender, Role.VALIDATOR, STAKE)

    async def now_s(self) -> int:
        block = await self.rpc.block("latest")
        assert block is not None
        return block.timestamp_s

    async def advance_to(self, second: int) -> None:
        """Let the chain's clock reach a Unix second."""
        gap = second - await self.now_s()
        if gap > 0:
            await asyncio.to_thread(self.chain.advance_time, gap)

    def secret(self, sender: Sender, epoch: int) -> bytes:
        return keccak(b"secret" + sender.account + epoch.to_bytes(8, "big"))

    async def begin_epoch(self) -> int:
        """Commit everybody to the next epoch, and let it begin."""
        epoch = self.court.epoch_at(await self.now_s()) + 1
        for sender in self.validators:
            await self.court.commit_secret(sender, epoch, keccak(self.secret(sender, epoch)))
        await self.advance_to(epoch * EPOCH_S)
        return epoch

    async def draw(self, case_id: int) -> None:
        """Reveal, tally and seat a case's panel."""
        case = (await self.court.fetch_cases([case_id]))[0]
        await self.advance_to((case.epoch + 1) * EPOCH_S)
        for sender in self.validators:
            await self.court.reveal_secret(sender, case.epoch, self.secret(sender, case.epoch))
        await self.advance_to((case.epoch + 1) * EPOCH_S + TERMS.reveal_s)
        await self.court.tally(self.challenger, case.epoch)
        tally = await self.court.fetch_round(case.epoch)
        assert tally.is_tallied
        secrets = await self.court.fetch_secrets(tally.committed, case.epoch)
        assert {secret.state for secret in secrets} == {SecretState.REVEALED}
        revealers = [
            Revealer(account, secret.value, secret.weight_nano)
            for account, secret in zip(tally.committed, secrets, strict=True)
        ]
        size = TERMS.appeal_size if case.is_appealed else TERMS.panel_size
        members = draw_panel(case_id, revealers, size, barred=(case.accused, case.challenger))
        await self.court.draw(self.challenger, case_id, members)

    async def vote(self, case_id: int, vote: Outcome) -> None:
        """Let every juror vote the same way, and count."""
        panel, jurors = await self.court.fetch_panel(case_id)
        seated = [sender for sender in self.validators if sender.account in jurors]
        for sender in seated:
            commitment = vote_commitment(case_id, panel.epoch, sender.account, vote, keccak(sender.account))
            await self.court.commit_vote(sender, case_id, commitment)
        await self.advance_to(panel.commit_until_s)
        for sender in seated:
            await self.court.reveal_vote(sender, case_id, vote, keccak(sender.account))
            seat = await self.court.fetch_seat(case_id, panel.epoch, sender.account)
            assert (seat.is_revealed, seat.vote) == (True, vote)
        await self.court.resolve(self.challenger, case_id)

    async def case(self, case_id: int) -> tuple[Phase, Ruling]:
        case = (await self.court.fetch_cases([case_id]))[0]
        return case.phase, case.ruling


@pytest.fixture(params=CHAIN_KINDS)
def chain(request: pytest.FixtureRequest) -> Iterator[RunningChain]:
    with open_chain(request.param, key_count=6) as chain:
        yield chain


def test_case_goes_from_secrets_to_slash(chain: RunningChain) -> None:
    """One case is convicted and slashed; another has too few validators beside the accused, and waits."""
    deployment = deploy_on(chain, PARAMETERS)

    async def story() -> None:
        async with ChainRpc([chain.url], chain_id=chain.chain_id) as rpc:
            room = Room(chain, rpc, deployment)
            await room.prepare()
            assert await room.court.fetch_terms() == TERMS
            provider, topic = room.provider.account, keccak(b"service")
            epoch = await room.begin_epoch()
            with pytest.raises(Reverted, match="commit for a later one"):
                await room.court.commit_secret(room.validators[0], epoch, EVIDENCE)
            first = await room.court.open_case(room.challenger, CaseKind.CHEAT, provider, topic, EVIDENCE)
            assert (await room.court.fetch_standing(CaseKind.CHEAT, provider, topic)).open_cases == 1
            await room.draw(first)
            await room.vote(first, Outcome.FAIL)
            assert await room.case(first) == (Phase.CONVICTED, Ruling.NONE)
            case = (await room.court.fetch_cases([first]))[0]
            await room.advance_to(case.appeal_until_s)
            receipt = await room.court.resolve(room.challenger, first)
            assert await room.case(first) == (Phase.CLOSED, Ruling.CONVICTED)
            names = [event.name for event in room.court.decode_events(receipt.logs)]
            assert names == ["Punished", "CaseClosed", "BondReleased"]
            assert await room.court.fetch_at_stake(provider, Role.PROVIDER) == STAKE // 2

            await room.begin_epoch()
            accused = room.validators[0]
            second = await room.court.open_case(room.challenger, CaseKind.LAZY, accused.account, NO_TOPIC, EVIDENCE)
            assert await room.court.fetch_case_count() == second == 2
            await check_waits(room, second)

    asyncio.run(story())


async def check_waits(room: Room, case_id: int) -> None:
    """Two validators beside the accused are too few: the case waits for an epoch to come."""
    before = (await room.court.fetch_cases([case_id]))[0]
    await room.draw(case_id)
    after = (await room.court.fetch_cases([case_id]))[0]
    assert (after.phase, after.draws) == (Phase.DRAWING, 1)
    assert after.epoch > before.epoch
