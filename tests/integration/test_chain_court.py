"""The court's clients on real chains: a case from secrets to slash, one that waits, and evidence demanded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain

from steelyard.chain.cases import NO_TOPIC, CaseKind, Phase, Ruling, SecretState, vote_commitment
from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.proofs import BatchedReceipt, DemandState, ProofsClient, demand_id, sign_consent
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.errors import Reverted
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import keccak
from steelyard.protocol.lanes import LaneState, SignedBatch, extend_lane
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Lane, Outcome, Receipt
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


def test_evidence_is_demanded_served_and_missed_on_chain(chain: RunningChain) -> None:
    """The gateway demands, or lets a validator: one call's evidence is served, another's is not; a lie is proven."""
    deployment = deploy_on(chain, PARAMETERS)
    blob = bytes(n % 251 for n in range(70_000))

    async def story() -> None:
        async with ChainRpc([chain.url], chain_id=chain.chain_id) as rpc:
            room = Room(chain, rpc, deployment)
            await room.prepare()
            proofs = ProofsClient(rpc, deployment)
            gateway, validator = room.challenger, room.validators[0]
            now_ms = 1_000 * await room.now_s()
            receipts = [
                Receipt(keccak(b"order"), part, keccak(b"response"), evidence_root(blob), 5, 6, 7, now_ms, now_ms, 0)
                for part in range(3)
            ]
            ids = [receipt.struct_hash() for receipt in receipts]
            lane = Lane(gateway.account, room.provider.account, keccak(b"service"), 1)
            _, signed = extend_lane(LaneState(lane=lane), ids, [7, 7, 7], chain.keys[1], deployment.domain)
            given = [BatchedReceipt.build(signed, ids, receipt) for receipt in receipts]

            served = await proofs.demand_evidence(gateway, given[0])
            assert served == demand_id(room.provider.account, ids[0])
            await proofs.serve_evidence(room.provider, served, blob)
            assert (await proofs.fetch_demand(served)).state is DemandState.SERVED

            with pytest.raises(Reverted, match="did not sign this"):
                await proofs.demand_evidence(validator, given[1])
            consent = sign_consent(chain.keys[2], deployment.domain, validator.account, ids[1])
            missed = await proofs.demand_evidence(validator, given[1], consent)
            demand = await proofs.fetch_demand(missed)
            assert (demand.state, demand.demander, demand.served) == (DemandState.OPEN, validator.account, 0)
            await room.advance_to(demand.until_s)
            await proofs.close_demand(validator, missed)
            assert (await proofs.fetch_demand(missed)).state is DemandState.SILENT
            assert await room.court.fetch_at_stake(room.provider.account, Role.PROVIDER) == STAKE // 2

            changed = msgspec.structs.replace(receipts[2], cost=8)
            batch = msgspec.structs.replace(signed.batch, seq=2, receipts_root=merkle_root([changed.struct_hash()]))
            twice = SignedBatch(batch, chain.keys[1].sign(deployment.domain.digest(batch.struct_hash())))
            lie = BatchedReceipt.build(twice, [changed.struct_hash()], changed)
            await proofs.prove_two_receipts(validator, given[2], lie)
            assert await room.court.fetch_at_stake(room.provider.account, Role.PROVIDER) == 0

    asyncio.run(story())


async def check_waits(room: Room, case_id: int) -> None:
    """Two validators beside the accused are too few: the case waits for an epoch to come."""
    before = (await room.court.fetch_cases([case_id]))[0]
    await room.draw(case_id)
    after = (await room.court.fetch_cases([case_id]))[0]
    assert (after.phase, after.draws) == (Phase.DRAWING, 1)
    assert after.epoch > before.epoch
