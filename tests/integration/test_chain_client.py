"""Our clients and contracts on real chains, and web3.py reading the same values from the same chains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain
from web3 import HTTPProvider, Web3

from steelyard.chain.artifacts import load_artifact
from steelyard.chain.deploy import deploy, verify_deployment
from steelyard.chain.deployment import Deployment
from steelyard.chain.directory import Directory
from steelyard.chain.escrow import EscrowClient, GatewayAccount, LaneTotals, Skip
from steelyard.chain.indexer import fetch_events
from steelyard.chain.ledger import LedgerClient, PostedRoot
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role, Split, Unbonding
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.chain.yard import YardClient
from steelyard.errors import ChainError, ConfigError, Reverted
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import SignedVoucher
from steelyard.protocol.merkle import build_proof, merkle_root
from steelyard.protocol.messages import Lane, Offer, Voucher
from steelyard.protocol.pricing import NANO_PER_YARD as NANO
from steelyard.protocol.signing import SigningKey

SPLIT = Split(8_000, 1_000, 500, 500)
TERMS = CourtTerms(reveal_s=1, commit_s=1, vote_s=1, appeal_s=1, keep_s=1, evidence_s=1)
PARAMETERS = DeploymentParameters(withdraw_delay_s=60, unbond_delay_s=120, epoch_s=10, court=TERMS)


@dataclass
class World:
    """A chain with a deployment, and keys by the part they play."""

    chain: RunningChain
    deployment: Deployment

    @property
    def treasury(self) -> SigningKey:
        return self.chain.keys[0]

    @property
    def gateway(self) -> SigningKey:
        return self.chain.keys[1]

    @property
    def provider(self) -> SigningKey:
        return self.chain.keys[2]

    @property
    def builder(self) -> SigningKey:
        return self.chain.keys[3]


@dataclass
class Desk:
    """Open clients for one test."""

    world: World
    rpc: ChainRpc
    yard: YardClient
    registry: RegistryClient
    escrow: EscrowClient
    ledger: LedgerClient

    def sender(self, key: SigningKey) -> Sender:
        return Sender(self.rpc, key)


@pytest.fixture(scope="module", params=CHAIN_KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with open_chain(request.param) as chain:
        yield World(chain, deploy_on(chain, PARAMETERS))


@asynccontextmanager
async def open_desk(world: World) -> AsyncIterator[Desk]:
    async with ChainRpc([world.chain.url], chain_id=world.chain.chain_id) as rpc:
        d = world.deployment
        yield Desk(world, rpc, YardClient(rpc, d), RegistryClient(rpc, d), EscrowClient(rpc, d), LedgerClient(rpc, d))


def at_desk(world: World, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        async with open_desk(world) as desk:
            await story(desk)

    asyncio.run(run())


def sign_voucher(world: World, key: SigningKey, lane: Lane, cumulative: int, count: int = 1) -> SignedVoucher:
    voucher = Voucher(lane.gateway, lane.provider, lane.service_id, lane.lane_id, cumulative, count, keccak(b"head"))
    return SignedVoucher(voucher, key.sign(world.deployment.domain.digest(voucher.struct_hash())))


async def register(desk: Desk, name: str) -> bytes:
    pot = desk.world.chain.keys[4].account
    sender = desk.sender(desk.world.builder)
    await desk.registry.register_service(sender, name, "echo", keccak(name.encode()), SPLIT, pot)
    return service_id(name)


async def fund(desk: Desk, key: SigningKey, amount_nano: int) -> None:
    await desk.yard.transfer(desk.sender(desk.world.treasury), key.account, amount_nano)


def test_deployment_saved_file_loads_and_verifies(world: World, tmp_path: Path) -> None:
    """A deployment survives its file, and the chain confirms code, links, roles and domain."""
    path = tmp_path / "deployment.json"
    world.deployment.save(path)
    assert Deployment.load(path) == world.deployment
    assert world.deployment.is_development

    async def story(desk: Desk) -> None:
        await verify_deployment(desk.rpc, Deployment.load(path))
        assert await desk.yard.fetch_total_supply() == PARAMETERS.initial_supply_nano
        assert await desk.escrow.fetch_protocol_pot() == world.deployment.rewards

    at_desk(world, story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"salt": b"\x01" * 32}, "Registry.domainSeparator, Escrow.domainSeparator differ"),
        ({"yard": b"\x01" * 20}, "no contract stands at Yard's address"),
        ({"epoch_s": 11}, "Ledger.epochSeconds, Court.epochSeconds differ"),
        ({"withdraw_delay_s": 61}, "Escrow.withdrawDelay differ"),
        ({"chain_id": 5}, "the rpc serves chain"),
    ],
)
def test_verify_deployment_wrong_field_is_named(world: World, change: dict[str, object], words: str) -> None:
    """A deployment file that doesn't match the chain is refused with what differs."""

    async def story(desk: Desk) -> None:
        with pytest.raises(ConfigError, match=words):
            await verify_deployment(desk.rpc, replace(world.deployment, **change))  # type: ignore[arg-type]

    at_desk(world, story)


def test_verify_deployment_swapped_contracts_are_refused(world: World) -> None:
    """Another of our own contracts at an address is not the right one."""

    async def story(desk: Desk) -> None:
        swapped = replace(world.deployment, escrow=world.deployment.ledger)
        with pytest.raises(ConfigError, match="other code stands at Escrow's address"):
            await verify_deployment(desk.rpc, swapped)

    at_desk(world, story)


def test_deploy_killed_half_way_goes_on(world: World, tmp_path: Path) -> None:
    """A deployment that stops after any step goes on where it was, with the same salt, and mints once."""
    journal = tmp_path / "journal.json"
    key = world.chain.keys[9]
    stops = [3, 2, 2, 10]

    class Stopping(Sender):
        left = 0

        async def send(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            if self.left == 0:
                raise ChainError("killed here")
            self.left -= 1
            return await super().send(*args, **kwargs)  # type: ignore[arg-type]

    async def story(desk: Desk) -> None:
        for stop in stops[:-1]:
            sender = Stopping(desk.rpc, key)
            sender.left = stop
            with pytest.raises(ChainError, match="killed here"):
                await deploy(sender, PARAMETERS, journal=journal)
        before = await desk.rpc.nonce(key.account)
        finished = await deploy(Sender(desk.rpc, key), PARAMETERS, journal=journal)
        assert before == 7
        assert await desk.rpc.nonce(key.account) - before <= 3
        again = await deploy(Sender(desk.rpc, key), PARAMETERS, journal=journal)
        assert again == finished
        assert await YardClient(desk.rpc, finished).fetch_total_supply() == PARAMETERS.initial_supply_nano
        with pytest.raises(ConfigError, match="delete it to begin anew"):
            await deploy(Sender(desk.rpc, key), replace(PARAMETERS, epoch_s=11), journal=journal)

    at_desk(world, story)


def test_deploy_other_admin_takes_over_every_role(world: World) -> None:
    """With an admin named the deployer keeps no role: it can neither mint nor grant."""
    deployer, admin = world.chain.keys[8], world.chain.keys[7]

    async def story(desk: Desk) -> None:
        made = await deploy(desk.sender(deployer), replace(PARAMETERS, admin=admin.account))
        yard = YardClient(desk.rpc, made)
        with pytest.raises(Reverted, match="AccessManagedUnauthorized") as caught:
            await yard.mint(desk.sender(deployer), deployer.account, 1)
        assert "has no role for this" in caught.value.message
        await yard.mint(desk.sender(admin), admin.account, 7)
        assert await yard.fetch_balance(admin.account) == 7

    at_desk(world, story)


def test_money_story_deposit_redeem_withdraw_adds_up(world: World) -> None:
    """Deposit, redeem with the split, skip what is bad, sweep, withdraw after the delay: no nano is lost."""

    async def story(desk: Desk) -> None:
        gateway, provider = world.gateway, world.provider
        service = await register(desk, "story/echo")
        await fund(desk, gateway, 10 * NANO)
        sender = desk.sender(gateway)
        await desk.escrow.deposit(sender, gateway.account, 6 * NANO)
        assert await desk.escrow.fetch_account(gateway.account) == GatewayAccount(6 * NANO, 0, 0, 0)

        lanes = [Lane(gateway.account, provider.account, service, n) for n in range(3)]
        good = [sign_voucher(world, gateway, lane, 1_000_001, count=4) for lane in lanes]
        forged = sign_voucher(world, provider, lanes[0], 9_000_000)
        unknown = sign_voucher(world, gateway, replace_service(lanes[0], keccak(b"none")), 5)
        blob = keccak(b"blob")
        outcome = await desk.escrow.redeem(desk.sender(provider), [good[0], forged, good[1], unknown, good[2]], blob)
        assert outcome.paid_nano == 3 * 1_000_001
        assert [lane.lane_key for lane in outcome.redeemed] == [lane.key for lane in lanes]
        assert {(lane.cumulative_nano, lane.count, lane.head) for lane in outcome.redeemed} == {
            (1_000_001, 4, keccak(b"head"))
        }
        assert [(skip.index, skip.reason) for skip in outcome.skipped] == [
            (1, Skip.BAD_SIGNATURE),
            (3, Skip.UNKNOWN_SERVICE),
        ]
        published = [e for e in desk.escrow.decode_events(outcome.receipt.logs) if e.name == "CallsPublished"]
        assert [event.values for event in published] == [{"publisher": provider.account, "blob": blob}]

        again = await desk.escrow.redeem(desk.sender(provider), good[:1])
        assert [skip.reason for skip in again.skipped] == [Skip.NOTHING_DUE]
        assert await desk.escrow.fetch_lanes([lane.key for lane in lanes]) == [LaneTotals(1_000_001, 1_000_001)] * 3

        payees = [provider.account, world.builder.account, world.chain.keys[4].account, world.deployment.rewards]
        unswept = await desk.escrow.fetch_unswept(payees)
        assert unswept == [3 * 800_001, 3 * 100_000, 3 * 50_000, 3 * 50_000]  # floors; the remainder is the provider's
        before = await desk.yard.fetch_balances(payees)
        await desk.escrow.sweep(desk.sender(world.builder), payees)
        after = await desk.yard.fetch_balances(payees)
        assert [b - a for a, b in zip(before, after, strict=True)] == unswept

        left = 6 * NANO - outcome.paid_nano
        await desk.escrow.announce_withdrawal(sender, left)
        assert (await desk.escrow.fetch_account(gateway.account)).is_withdrawing
        with pytest.raises(Reverted, match=r"Escrow\.withdraw: wait until .+ UTC \(StillWaiting\)"):
            await desk.escrow.withdraw(sender)
        await asyncio.to_thread(world.chain.advance_time, PARAMETERS.withdraw_delay_s + 1)
        await desk.escrow.withdraw(sender)
        assert await desk.escrow.fetch_account(gateway.account) == GatewayAccount(0, 0, 0, 0)
        assert await desk.yard.fetch_balance(gateway.account) == 4 * NANO + left
        assert await desk.yard.fetch_balance(world.deployment.escrow) == 0

    at_desk(world, story)


def replace_service(lane: Lane, service: bytes) -> Lane:
    return Lane(lane.gateway, lane.provider, service, lane.lane_id)


def test_deposit_with_permit_needs_no_approval(world: World) -> None:
    """A permit signed by the owner deposits in one transaction."""

    async def story(desk: Desk) -> None:
        key = world.chain.keys[5]
        await fund(desk, key, NANO)
        nonce = await desk.yard.fetch_permit_nonce(key.account)
        permit = desk.yard.sign_permit(key, world.deployment.escrow, NANO, nonce=nonce, deadline_s=2**40)
        await desk.escrow.deposit_with_permit(desk.sender(key), key.account, permit)
        assert (await desk.escrow.fetch_account(key.account)).deposit_nano == NANO
        assert await desk.yard.fetch_allowance(key.account, world.deployment.escrow) == 0

    at_desk(world, story)


def test_registry_story_stake_offer_unbond_agrees_with_its_events(world: World) -> None:
    """Staking, offers, a gateway's URL and unbonding read back, and the directory made from events says the same."""

    async def story(desk: Desk) -> None:
        provider, gateway = world.provider, world.gateway
        service = await register(desk, "registry/echo")
        await fund(desk, provider, 300 * NANO)
        await fund(desk, gateway, 300 * NANO)
        provider_sender, gateway_sender = desk.sender(provider), desk.sender(gateway)
        offer = Offer(provider.account, service, 1_000, 2_000, 4, keccak(b"manifest"), 1)
        signature = provider.sign(world.deployment.domain.digest(offer.struct_hash()))
        with pytest.raises(Reverted, match="NotActive"):
            await desk.registry.set_offer(gateway_sender, offer, signature)
        await desk.registry.stake(provider_sender, Role.PROVIDER, 150 * NANO)
        await desk.registry.stake_for(gateway_sender, gateway.account, Role.GATEWAY, 120 * NANO)
        await desk.registry.set_gateway(gateway_sender, "http://127.0.0.1:9000")
        await desk.registry.set_offer(gateway_sender, offer, signature)
        standing = await desk.registry.fetch_offer(provider.account, service)
        assert standing is not None
        assert (standing.price_in, standing.price_out, standing.seq, standing.grade) == (1_000, 2_000, 1, 4)
        assert standing.manifest == keccak(b"manifest")
        with pytest.raises(Reverted, match="StaleSeq"):
            await desk.registry.set_offer(gateway_sender, offer, signature)

        receipt = await desk.registry.start_unbond(provider_sender, Role.PROVIDER, 40 * NANO)
        block = await desk.rpc.block(receipt.block_number)
        assert block is not None
        unbonding = await desk.registry.fetch_unbonding(provider.account, Role.PROVIDER)
        assert unbonding == Unbonding(40 * NANO, block.timestamp_s + PARAMETERS.unbond_delay_s)
        with pytest.raises(Reverted, match="StillUnbonding"):
            await desk.registry.finish_unbond(provider_sender, Role.PROVIDER)

        known = await desk.registry.fetch_service(service)
        assert known is not None
        assert (known.name, known.kind, known.builder, known.split) == (
            "registry/echo",
            "echo",
            world.builder.account,
            SPLIT,
        )
        assert await desk.registry.fetch_service(keccak(b"none")) is None
        assert await desk.registry.fetch_offer(gateway.account, service) is None
        assert await desk.registry.fetch_gateway_url(gateway.account) == "http://127.0.0.1:9000"
        assert await desk.registry.fetch_is_active(provider.account, Role.PROVIDER)
        assert not await desk.registry.fetch_is_active(provider.account, Role.VALIDATOR)
        assert await desk.registry.fetch_min_stake(Role.GATEWAY) == PARAMETERS.min_stakes_nano[1]

        directory = Directory()
        head = await desk.rpc.block_number()
        async for logs in fetch_events(desk.rpc, [world.deployment.registry], 0, head, chunk_blocks=7):
            directory.apply(desk.registry.decode_events(logs))
        assert directory.services[service] == known
        assert directory.offers_for(service) == [offer]
        assert directory.gateways == {gateway.account: "http://127.0.0.1:9000"}
        for account, role in ((provider.account, Role.PROVIDER), (gateway.account, Role.GATEWAY)):
            assert directory.stake_of(account, role) == await desk.registry.fetch_stake(account, role)
        assert directory.stakes[provider.account, Role.PROVIDER].unbonding_nano == 40 * NANO

        await asyncio.to_thread(world.chain.advance_time, PARAMETERS.unbond_delay_s + 1)
        await desk.registry.finish_unbond(provider_sender, Role.PROVIDER)
        assert await desk.registry.fetch_stake_at(provider.account, Role.PROVIDER, block.timestamp_s) == 110 * NANO

    at_desk(world, story)


def test_escrow_empty_pool_draws_on_stake_and_owes_the_rest(world: World) -> None:
    """What a pool can't pay is drawn from the gateway's stake; the rest stays owed and blocks the withdrawal."""

    async def story(desk: Desk) -> None:
        poor, provider = world.chain.keys[6], world.provider
        service = await register(desk, "owed/echo")
        await fund(desk, poor, 200 * NANO)
        sender = desk.sender(poor)
        await desk.registry.stake(sender, Role.GATEWAY, 100 * NANO)
        await desk.escrow.deposit(sender, poor.account, 10 * NANO)
        lane = Lane(poor.account, provider.account, service, 1)
        voucher = sign_voucher(world, poor, lane, 130 * NANO)
        outcome = await desk.escrow.redeem(desk.sender(provider), [voucher])
        assert outcome.paid_nano == 110 * NANO
        assert await desk.escrow.fetch_account(poor.account) == GatewayAccount(0, 20 * NANO, 0, 0)
        assert await desk.escrow.fetch_lane(lane.key) == LaneTotals(130 * NANO, 110 * NANO)
        assert await desk.registry.fetch_stake(poor.account, Role.GATEWAY) == 0
        await desk.escrow.deposit(sender, poor.account, 25 * NANO)
        assert (await desk.escrow.redeem(desk.sender(provider), [voucher])).paid_nano == 20 * NANO
        assert await desk.escrow.fetch_account(poor.account) == GatewayAccount(5 * NANO, 0, 0, 0)

    at_desk(world, story)


def test_ledger_posted_root_includes_its_items(world: World) -> None:
    """A root that was posted reads back, and proves its items by the protocol's own Merkle tree."""

    async def story(desk: Desk) -> None:
        items = [keccak(bytes([n])) for n in range(5)]
        root, kind = merkle_root(items), keccak(b"verdicts")
        block = await desk.rpc.block()
        assert block is not None
        epoch = desk.ledger.epoch_at(block.timestamp_s)
        sender = desk.sender(world.treasury)
        receipt = await desk.ledger.post(sender, kind, epoch, root, keccak(b"cid"), 5)
        posted_at = await desk.rpc.block(receipt.block_number)
        assert posted_at is not None
        found = await desk.ledger.fetch_root(sender.account, kind, epoch)
        assert found == PostedRoot(root, keccak(b"cid"), 5, posted_at.timestamp_s)
        assert await desk.ledger.fetch_root(sender.account, kind, epoch + 1) is None
        for index, item in enumerate(items):
            proof = build_proof(items, index)
            assert await desk.ledger.fetch_included(sender.account, kind, epoch, item, proof)
            assert not await desk.ledger.fetch_included(sender.account, kind, epoch, ZERO32, proof)
        with pytest.raises(Reverted, match="AlreadyPosted"):
            await desk.ledger.post(sender, kind, epoch, root, keccak(b"cid"), 5)

    at_desk(world, story)


def test_sender_many_tasks_on_a_real_chain_all_land(world: World) -> None:
    """Twenty transfers of one account at once are all mined, under twenty nonces."""

    async def story(desk: Desk) -> None:
        sender, to = desk.sender(world.treasury), b"\x77" * 20
        before = await desk.rpc.nonce(sender.account)
        receipts = await asyncio.gather(*[desk.yard.transfer(sender, to, 1) for _ in range(20)])
        assert len({receipt.tx_hash for receipt in receipts}) == 20
        assert await desk.rpc.nonce(sender.account) == before + 20
        assert await desk.yard.fetch_balance(to) == 20

    at_desk(world, story)


def test_reads_and_errors_on_a_real_chain_are_clear(world: World) -> None:
    """Reads of nothing, refusals and an account without gas say what is wrong."""

    async def story(desk: Desk) -> None:
        nobody = SigningKey(b"\x55" * 32)
        with pytest.raises(Reverted, match=r"holds 0 YARD and needs 0\.000000005 YARD .+ fund it first"):
            await desk.yard.transfer(desk.sender(world.chain.keys[9]), nobody.account, 5)
        with pytest.raises(ChainError, match=nobody.account.hex()) as caught:
            await desk.sender(nobody).send(world.treasury.account, value_wei=1)
        assert caught.value.code == "insufficient_gas_funds"
        elsewhere = YardClient(desk.rpc, replace(world.deployment, yard=nobody.account))
        with pytest.raises(ChainError, match="is there a contract at this address"):
            await elsewhere.fetch_balance(nobody.account)
        assert await desk.rpc.block(10**9) is None
        assert await desk.rpc.receipt(b"\x01" * 32) is None

    at_desk(world, story)


def test_web3_reads_the_same_values(world: World) -> None:
    """web3.py, knowing nothing of us, reads what our clients read: balances, receipts, events, blocks, calls."""
    w3 = Web3(HTTPProvider(world.chain.url))
    yard = w3.eth.contract(Web3.to_checksum_address(world.deployment.yard), abi=load_artifact("Yard").abi)
    registry = w3.eth.contract(Web3.to_checksum_address(world.deployment.registry), abi=load_artifact("Registry").abi)

    async def story(desk: Desk) -> None:
        to = SigningKey(b"\x56" * 32).account
        service = await register(desk, "web3/echo")
        receipt = await desk.yard.transfer(desk.sender(world.treasury), to, 12_345)
        theirs = w3.eth.get_transaction_receipt("0x" + receipt.tx_hash.hex())
        block = await desk.rpc.block(receipt.block_number)
        assert block is not None
        assert w3.eth.chain_id == await desk.rpc.chain_id()
        assert (theirs["blockNumber"], theirs["gasUsed"]) == (receipt.block_number, receipt.gas_used)
        assert bytes(theirs["blockHash"]) == receipt.block_hash == block.hash
        assert w3.eth.get_block(receipt.block_number)["timestamp"] == block.timestamp_s
        assert yard.functions.balanceOf(Web3.to_checksum_address(to)).call() == 12_345
        assert yard.functions.totalSupply().call() == await desk.yard.fetch_total_supply()
        [event] = yard.events.Transfer().process_receipt(theirs)
        [ours] = desk.yard.decode_events(receipt.logs)
        assert bytes.fromhex(event["args"]["from"][2:].lower()) == ours.values["from"] == world.treasury.account
        assert event["args"]["value"] == ours.values["value"] == 12_345
        known = await desk.registry.fetch_service(service)
        assert known is not None
        payees, manifest, kind, name = registry.functions.serviceOf(service).call()
        assert (manifest, kind, name) == (known.manifest, known.kind, known.name)
        assert bytes.fromhex(payees[0][2:].lower()) == known.builder
        assert list(payees[1:5]) == known.split.as_list()

    at_desk(world, story)
