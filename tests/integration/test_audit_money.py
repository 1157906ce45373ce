"""The audit on real chains: real contracts, vouchers signed by protocol code, redeemed, their calls in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, open_chain

from steelyard.audit.report import AuditReport
from steelyard.audit.run import run_audit
from steelyard.chain.cases import CaseKind
from steelyard.chain.court import CourtClient
from steelyard.chain.deploy import deploy
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.reward_terms import RewardTerms
from steelyard.chain.rewards import ProposalState, RewardsClient
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.errors import BadRequest, ConfigError
from steelyard.protocol.calls_blob import encode_calls
from steelyard.protocol.cid import Cid
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState, SignedBatch, extend_lane, sign_voucher
from steelyard.protocol.messages import Lane, Offer, Order, Receipt
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.rewards_blob import build_share_proof, shares_root
from steelyard.protocol.signing import SigningKey
from steelyard.storage.blobs import FolderBlobs

YARD = 10**9
SERVICE = "audited"
PRICES = (1_000_003, 5_000_011)
GRADE = 4
MANIFEST = b"\x11" * 32
SPLIT = Split(7_001, 1_499, 999, 501)
TERMS = CourtTerms(reveal_s=1, commit_s=1, vote_s=1, appeal_s=1, keep_s=1, evidence_s=1)
PARAMETERS = DeploymentParameters(
    withdraw_delay_s=1,
    unbond_delay_s=13,
    epoch_s=1,
    min_stakes_nano=(YARD, YARD, YARD),
    court=TERMS,
    rewards=RewardTerms(challenge_s=1, purse_s=1, bond_nano=3 * YARD),
)

Batches = list[tuple[SignedBatch, list[tuple[Order, Receipt]]]]


def change(message: Any, **values: Any) -> Any:
    """Return a message with some fields changed."""
    return type(message)(**{name: getattr(message, name) for name in message.__struct_fields__} | values)


@dataclass
class Story:
    """A deployment with a gateway, a provider and a service, and a folder of blobs."""

    rpc: ChainRpc
    deployment: Deployment
    chain: RunningChain
    blobs: FolderBlobs
    random: Random = field(default_factory=lambda: Random(5))

    def __post_init__(self) -> None:
        self.owner, self.gateway, self.provider, self.builder, self.pot, self.stranger = self.chain.keys[:6]
        self.senders = {key.account: Sender(self.rpc, key) for key in self.chain.keys[:6]}
        self.registry = RegistryClient(self.rpc, self.deployment)
        self.escrow = EscrowClient(self.rpc, self.deployment)
        self.lane_ids = 0

    async def prepare(self) -> None:
        """Fund, stake, register, offer and deposit."""
        owner, yard = self.senders[self.owner.account], self.registry.yard
        for key in (self.gateway, self.provider):
            await yard.transfer(owner, key.account, 100 * YARD)
        provider, gateway = self.senders[self.provider.account], self.senders[self.gateway.account]
        await self.registry.stake(provider, Role.PROVIDER, 20 * YARD)
        await self.registry.stake(gateway, Role.GATEWAY, 2 * YARD)
        builder = self.senders[self.builder.account]
        await self.registry.register_service(builder, SERVICE, "echo", MANIFEST, SPLIT, self.pot.account)
        offer = Offer(self.provider.account, service_id(SERVICE), *PRICES, GRADE, MANIFEST, 1)
        signature = self.provider.sign(self.deployment.domain.digest(offer.struct_hash()))
        await self.registry.set_offer(builder, offer, signature)
        await self.escrow.deposit(gateway, self.gateway.account, 5 * YARD)

    def open_lane(self) -> LaneState:
        """Return a fresh lane between the gateway and the provider."""
        self.lane_ids += 1
        lane = Lane(self.gateway.account, self.provider.account, service_id(SERVICE), self.lane_ids)
        return LaneState(lane=lane)

    def serve(self, state: LaneState, calls: int = 3, **order: Any) -> tuple[LaneState, Batches]:
        """Return the lane after one more batch; `order` replaces fields of its first order."""
        done = []
        for index in range(calls):
            made = self._order(state.lane, **(order if index == 0 else {}))
            units_in, units_out = self.random.randrange(1, 999), self.random.randrange(1, 30_000_000)
            cost = call_cost(units_in, units_out, made.price_in, made.price_out)
            receipt = Receipt(made.struct_hash(), 0, b"\x01" * 32, ZERO32, units_in, units_out, cost, 1, 2, 0)
            done.append((made, receipt))
        return self.close(state, done)

    def close(self, state: LaneState, done: list[tuple[Order, Receipt]]) -> tuple[LaneState, Batches]:
        """Return the lane after a batch of given calls."""
        ids, costs = [receipt.struct_hash() for _, receipt in done], [receipt.cost for _, receipt in done]
        state, signed = extend_lane(state, ids, costs, self.provider, self.deployment.domain)
        return state, [(signed, done)]

    async def redeem(self, state: LaneState, batches: Batches, *, publisher: SigningKey | None = None) -> Cid:
        """Put a blob into the folder and redeem the lane's voucher with it."""
        domain = self.deployment.domain
        cid = await self.blobs.put(encode_calls(domain, batches))
        voucher = sign_voucher(state, self.gateway, domain)
        sender = self.senders[(publisher or self.provider).account]
        redemption = await self.escrow.redeem(sender, [voucher], cid.digest)
        assert not redemption.skipped
        return cid

    async def audit(self) -> AuditReport:
        """Return the audit as of now."""
        return await run_audit(self.rpc, self.deployment, self.blobs)

    def _order(self, lane: Lane, **changes: Any) -> Order:
        order = Order(
            self.random.randbytes(16), lane.gateway, lane.provider, lane.service_id, lane.lane_id,
            self.random.randbytes(32), ZERO32, 7, GRADE, *PRICES, YARD, 1,
        )  # fmt: skip
        return change(order, **changes) if changes else order


@asynccontextmanager
async def open_story(chain: RunningChain, folder: Path) -> AsyncIterator[Story]:
    """Deploy on a fresh chain and give the story."""
    async with ChainRpc([chain.url]) as rpc:
        deployment = await deploy(Sender(rpc, chain.keys[0]), PARAMETERS)
        story = Story(rpc, deployment, chain, FolderBlobs(folder))
        await story.prepare()
        yield story


def tell(kind: str, folder: Path, plot: Callable[[Story], Awaitable[None]]) -> None:
    """Run a plot on a fresh chain of a kind."""

    async def run(chain: RunningChain) -> None:
        async with open_story(chain, folder) as story:
            await plot(story)

    with open_chain(kind, key_count=6) as chain:
        asyncio.run(run(chain))


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_audit_of_bonds_and_rewards_says_yes(kind: str, tmp_path: Path) -> None:
    """A bond, income of the pot, a final root, a claim, the burned tenth and a pending root: all is conserved."""

    async def plot(story: Story) -> None:
        owner, provider = story.senders[story.owner.account], story.senders[story.provider.account]
        rewards, court = RewardsClient(story.rpc, story.deployment), CourtClient(story.rpc, story.deployment)
        await story.registry.stake(provider, Role.VALIDATOR, 10 * YARD)
        state, batches = story.serve(story.open_lane())
        await story.redeem(state, batches)
        await court.open_case(owner, CaseKind.CHEAT, story.provider.account, service_id(SERVICE), b"\x01" * 32)
        await asyncio.to_thread(story.chain.advance_time, 2)
        await rewards.collect(owner)
        came_in = (await rewards.fetch_money()).received_nano
        assert came_in == state.cumulative * SPLIT.protocol_bps // 10_000 > 0

        shares = {story.provider.account: came_in // 3, story.gateway.account: came_in // 5}
        total, proof = sum(shares.values()), build_share_proof(shares, story.provider.account)
        for _ in range(2):
            block = await story.rpc.block("latest")
            assert block is not None
            number = await rewards.propose(provider, block.timestamp_s - 1, shares_root(shares), b"\x02" * 32, total)
            await asyncio.to_thread(story.chain.advance_time, 2)
        assert await rewards.settle(owner, 1) is ProposalState.FINAL
        await rewards.claim(owner, 1, story.provider.account, came_in // 3, proof)
        await rewards.burn_rest(owner)

        report = await story.audit()
        assert (report.verdict, report.findings) == ("yes", ())
        books, totals = report.books, report.books.totals()
        assert sum(totals.values()) == books.minted - books.burned == await story.registry.yard.fetch_total_supply()
        assert totals["bonds"] == TERMS.bond_nano + PARAMETERS.rewards.bond_nano
        assert totals["pot"] == came_in - came_in // 3 - came_in // 10
        assert (books.pot.claimed[story.provider.account], books.pot.last_final, number) == (came_in // 3, 1, 2)


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_audit_of_everything_that_moves_money_says_yes(kind: str, tmp_path: Path) -> None:
    """Redemptions, stake drawn, debts, later deposits, sweeps, withdrawals, unbonding, burning: all is conserved."""

    async def plot(story: Story) -> None:
        gateway, provider = story.senders[story.gateway.account], story.senders[story.provider.account]
        first, batches = story.serve(story.open_lane())
        await story.redeem(first, batches)
        await story.escrow.announce_withdrawal(gateway, YARD)
        first, more = story.serve(first, 2)
        second, others = story.serve(story.open_lane())
        await story.redeem(first, more)
        await story.redeem(second, others)
        paid = second.cumulative + first.cumulative
        while paid < 9 * YARD:  # beyond deposit and stake: the rest stays owed
            second, others = story.serve(second, 20)
            await story.redeem(second, others)
            paid = second.cumulative + first.cumulative
        account = await story.escrow.fetch_account(story.gateway.account)
        assert account.owed_nano > 0
        report = await story.audit()
        assert (report.verdict, report.findings) == ("yes", ())
        assert report.books.gateways[story.gateway.account].drawn == 2 * YARD
        assert report.books.gateways[story.gateway.account].owed == account.owed_nano

        await story.escrow.deposit(gateway, story.gateway.account, 30 * YARD)
        await story.redeem(second, [])  # the same voucher pays what was owed
        await story.escrow.sweep(provider, [story.provider.account, story.builder.account, story.owner.account])
        await story.registry.start_unbond(provider, Role.PROVIDER, 3 * YARD)
        await story.registry.yard.burn(provider, YARD)
        await story.escrow.announce_withdrawal(gateway, YARD)
        await story.registry.yard.transfer(provider, story.deployment.escrow, 17)  # unasked: nobody's
        await asyncio.to_thread(story.chain.advance_time, PARAMETERS.unbond_delay_s + 1)
        await story.registry.finish_unbond(provider, Role.PROVIDER)
        await story.escrow.withdraw(gateway)

        report = await story.audit()
        assert (report.verdict, report.findings, report.exit_status) == ("yes", (), 0)
        books, totals = report.books, report.books.totals()
        assert sum(totals.values()) == books.minted - books.burned == await story.registry.yard.fetch_total_supply()
        assert (books.burned, totals["stray"]) == (YARD, 17)
        gateway_books = books.gateways[story.gateway.account]
        assert (gateway_books.owed, gateway_books.withdrawn) == (0, YARD)
        assert gateway_books.redeemed == first.cumulative + second.cumulative
        assert [(proof.cost, proof.calls) for proof in report.lanes] == [
            (first.cumulative, first.count),
            (second.cumulative, second.count),
        ]
        shown = report.to_json()
        assert shown["money_conserved"] == "yes"
        assert sum(shown["whereabouts_nano"].values()) == shown["minted_nano"] - shown["burned_nano"]

    tell(kind, tmp_path, plot)


def test_audit_without_a_blob_is_not_provable_and_names_it(tmp_path: Path) -> None:
    """A blob that is gone, damaged or cut short makes it "not provable", with lane, head and CID; never "yes"."""

    async def plot(story: Story) -> None:
        state, batches = story.serve(story.open_lane())
        cid = await story.redeem(state, batches)
        path = story.blobs.path(cid)
        whole = path.read_bytes()
        for damage in (b"", whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], None):
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            report = await story.audit()
            (missing,) = (finding for finding in report.findings if finding.severity == "missing")
            assert (report.verdict, report.exit_status) == ("not provable", 3)
            assert (missing.code, missing.lane) == ("missing_blob", state.lane.key)
            assert (missing.head, missing.cids) == (state.head, (cid.digest,))
            assert str(cid) in missing.message
        path.write_bytes(whole)
        assert (await story.audit()).verdict == "yes"

    tell("embedded", tmp_path, plot)


def test_audit_of_corrupted_blobs_names_each_corruption(tmp_path: Path) -> None:
    """What a provider publishes against its own signatures and offers turns the answer to no, each by its name."""

    def altered(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        state, batches = story.serve(state)
        order, receipt = batches[0][1][0]
        batches[0][1][0] = (order, change(receipt, units_out=receipt.units_out + 1))
        return state, batches

    def forged(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        state, [(signed, calls)] = story.serve(state)
        signature = story.stranger.sign(story.deployment.domain.digest(signed.batch.struct_hash()))
        return state, [(SignedBatch(signed.batch, signature), calls)]

    def swapped(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        state, batches = story.serve(state)
        calls = batches[0][1]
        calls[0], calls[1] = (calls[1][0], calls[0][1]), (calls[0][0], calls[1][1])
        return state, batches

    def dear(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        return story.serve(state, price_out=PRICES[1] + 1)

    def padded(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        _, [(_, calls)] = story.serve(state)
        order, receipt = calls[0]
        return story.close(state, [(order, change(receipt, cost=receipt.cost + 1))])

    def repeated(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        state, first = story.serve(state)
        state, again = story.close(state, [first[0][1][0]])
        return state, first + again

    def inflated(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        return story.serve(change(state, cumulative=1_000))

    def foreign(story: Story, state: LaneState) -> tuple[LaneState, Batches]:
        return story.serve(state, lane_id=999_999)

    async def plot(story: Story) -> None:
        corruptions = {
            altered: "altered_leaf",
            forged: "forged_signature",
            swapped: "swapped_order",
            dear: "wrong_price",
            padded: "wrong_cost",
            repeated: "repeated_order",
            inflated: "wrong_total",
            foreign: "wrong_lane",
        }
        for corrupt, code in corruptions.items():
            state, batches = corrupt(story, story.open_lane())
            await story.redeem(state, batches)
            report = await story.audit()
            found = {f.code for f in report.findings if f.lane == state.lane.key and f.severity == "contradiction"}
            assert found == {code}
            assert (report.verdict, report.exit_status) == ("no", 1)
        honest, batches = story.serve(story.open_lane())
        await story.redeem(honest, batches)
        assert [proof.is_proven for proof in (await story.audit()).lanes] == [False] * len(corruptions) + [True]

    tell("embedded", tmp_path, plot)


def test_audit_of_a_strangers_false_blob_holds_nothing_against_the_lane(tmp_path: Path) -> None:
    """Who redeems another's voucher with rubbish makes it "not provable" until the right blob is published."""

    async def plot(story: Story) -> None:
        state, batches = story.serve(story.open_lane())
        right = [(signed, list(calls)) for signed, calls in batches]
        order, receipt = batches[0][1][0]
        batches[0][1][0] = (order, change(receipt, units_in=receipt.units_in + 1))
        await story.redeem(state, batches, publisher=story.stranger)
        assert (await story.audit()).verdict == "not provable"
        state, more = story.serve(state)
        await story.redeem(state, right + more)
        assert (await story.audit()).verdict == "yes"

    tell("embedded", tmp_path, plot)


def test_audit_as_of_an_earlier_block_sees_only_what_was_then(tmp_path: Path) -> None:
    """A pinned block is audited as it was; a first block after the deployment, or another deployment, is refused."""

    async def plot(story: Story) -> None:
        state, batches = story.serve(story.open_lane())
        await story.redeem(state, batches)
        block = await story.rpc.block_number()
        state, batches = story.serve(state)
        await story.redeem(state, batches)
        report = await run_audit(story.rpc, story.deployment, story.blobs, tag=block)
        assert (report.verdict, report.block, report.lanes[0].calls) == ("yes", block, 3)
        with pytest.raises(BadRequest, match="after the deployment's block"):
            await run_audit(story.rpc, story.deployment, story.blobs, from_block=story.deployment.block + 1)
        fields = {name: getattr(story.deployment, name) for name in story.deployment.__dataclass_fields__}
        other = Deployment(**fields | {"salt": b"\x05" * 32})
        with pytest.raises(ConfigError, match="another deployment"):
            await run_audit(story.rpc, other, story.blobs)

    tell("embedded", tmp_path, plot)
