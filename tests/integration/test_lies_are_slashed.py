"""Lies on a real chain: each is found by whom it was told to, proven once, and takes the liar's stake."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.chains import deploy_on, open_chain
from tests.trust_world import GATEWAY, PARAMETERS, PROVIDER, VALIDATOR, YARD, TrustWorld, open_trust_world

from steelyard.chain.fault_desk import ContractCourt, FaultDesk
from steelyard.chain.indexer import fetch_events
from steelyard.chain.registry import Role
from steelyard.errors import BadTotal
from steelyard.link.port import LeafEntry
from steelyard.protocol.hashing import keccak
from steelyard.protocol.lanes import SignedBatch, SignedVoucher
from steelyard.protocol.lies import LieKind
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import order_tag
from steelyard.storage.lies import LieState, load_lies
from steelyard.validator.feed import FeedState, GatewayFeed, SeenCall
from steelyard.validator.feed_witness import FeedWitness
from steelyard.validator.gateway_client import ShownBatch

STAKE = 10 * YARD


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[TrustWorld]:
    """Give the trust world on a chain of its own."""
    with open_chain("embedded") as chain:
        deployment = await asyncio.to_thread(deploy_on, chain, PARAMETERS)
        async with open_trust_world(folder, chain.url, chain.keys[0], deployment) as world:
            yield world


def sign_batch(world: TrustWorld, signed: SignedBatch, **changes: Any) -> SignedBatch:
    """Sign a batch of the provider's again, with other fields."""
    batch = msgspec.structs.replace(signed.batch, **changes)
    return SignedBatch(batch, PROVIDER.sign(world.deployment.domain.digest(batch.struct_hash())))


def sign_voucher(world: TrustWorld, signed: SignedVoucher, **changes: Any) -> SignedVoucher:
    """Sign a voucher of the gateway's again, with other fields."""
    voucher = msgspec.structs.replace(signed.voucher, **changes)
    return SignedVoucher(voucher, GATEWAY.sign(world.deployment.domain.digest(voucher.struct_hash())))


async def bring(world: TrustWorld, signed: SignedBatch, entries: tuple[LeafEntry, ...] = ()) -> None:
    """Let the provider send a batch that its gateway refuses, or asks for whole."""
    link: Any = SimpleNamespace(provider=PROVIDER.account, request_batches=lambda state: None)
    call_ids = [entry.order.call_id for entry in entries] or [b"\x01" * 16]
    with contextlib.suppress(BadTotal):
        await world.running.gateway.payer.take_batch(link, signed, call_ids, entries)


async def proven(world: TrustWorld) -> list[tuple[int, bytes, bytes]]:
    """Return (kind, liar, informer) of every lie that the chain knows."""
    head = await world.rpc.block_number()
    found: list[dict[str, Any]] = []
    async for logs in fetch_events(world.rpc, [world.deployment.proofs], world.deployment.block, head):
        found += [event.values for event in world.proofs.decode_events(logs) if event.name == "FaultProven"]
    return [(told["fault"], told["liar"], told["informer"]) for told in found]


async def until_stake(world: TrustWorld, account: bytes, role: Role, nano: int) -> None:
    """Wait until an account has so much at stake."""
    async with asyncio.timeout(20):
        while await world.registry.fetch_stake(account, role) != nano:  # noqa: ASYNC110  # it is on a chain
            await asyncio.sleep(0.05)


def again(call: SeenCall, **changes: Any) -> LeafEntry:
    """Return a call's leaf entry with another receipt for the same order."""
    return LeafEntry(call.order, b"", msgspec.structs.replace(call.receipt, **changes))


def test_provider_that_signs_two_batches_loses_its_stake_to_the_gateway_that_saw(tmp_path: Path) -> None:
    """A tenth is the gateway's; another batch changes nothing, and the validator who comes later is no error."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            call = await world.chat("hello")
            yard = world.registry.yard
            before = await yard.fetch_balance(GATEWAY.account)
            other = sign_batch(world, call.signed, cumulative=10**9)
            await bring(world, other)
            await until_stake(world, PROVIDER.account, Role.PROVIDER, 0)
            assert await yard.fetch_balance(GATEWAY.account) == before + STAKE // 10
            await bring(world, sign_batch(world, call.signed, cumulative=10**8))

            desk = FaultDesk(world.database, ContractCourt(world.rpc, world.deployment, world.validator))
            witness = FeedWitness(world.database, world.deployment.domain, desk)
            await witness.see([ShownBatch(1, call.signed, ((call.order, call.receipt),)), ShownBatch(2, other, ())])
            await desk.beat()
            assert [row.state for row in await load_lies(world.database)] == [LieState.PROVEN_BY_OTHERS]
            assert await proven(world) == [(LieKind.TWO_BATCHES, PROVIDER.account, GATEWAY.account)]

    asyncio.run(story())


def test_provider_that_signs_two_receipts_gives_the_gateway_its_money_back(tmp_path: Path) -> None:
    """The order stands in a batch; it comes again with a higher bill under the next number."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            call = await world.chat("hello")
            await world.chat("again")
            lane = next(iter(world.running.gateway.payer.lanes.values()))
            entry = again(call, response_hash=keccak(b"another"))
            tag = order_tag(world.running.gateway.payer.tag_secret, call.order.struct_hash())
            entry = LeafEntry(entry.order, tag, entry.receipt)
            follows = sign_batch(
                world,
                call.signed,
                seq=lane.state.seq + 1,
                prev_head=lane.state.head,
                receipts_root=merkle_root([entry.receipt.struct_hash()]),
                count=1,
                cumulative=lane.state.cumulative + entry.receipt.cost,
            )
            await bring(world, follows, (entry,))
            await until_stake(world, PROVIDER.account, Role.PROVIDER, 0)
            assert await proven(world) == [(LieKind.TWO_RECEIPTS, PROVIDER.account, GATEWAY.account)]

    asyncio.run(story())


def test_gateway_that_signs_two_vouchers_loses_its_stake_to_the_node_that_saw(tmp_path: Path) -> None:
    """A tenth is the provider's; sent again it is the same lie."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            await world.chat("hello")
            account = next(iter(world.node._lanes.values()))
            async with asyncio.timeout(20):
                while account.voucher is None:  # noqa: ASYNC110  # a link of another room
                    await asyncio.sleep(0.05)
            other = sign_voucher(world, account.voucher, cumulative=1)
            link: Any = SimpleNamespace(gateway=GATEWAY.account)
            for _ in range(2):
                with pytest.raises(BadTotal):
                    await world.node.on_voucher(link, other)
            await until_stake(world, GATEWAY.account, Role.GATEWAY, 0)
            assert world.node.faults.counts["two_vouchers", "found"] == 1
            assert await proven(world) == [(LieKind.TWO_VOUCHERS, GATEWAY.account, PROVIDER.account)]

    asyncio.run(story())


def test_history_rewritten_for_a_gateway_that_forgot_is_proven_by_the_validator(tmp_path: Path) -> None:
    """Only who read the first history can tell: both the receipts and the batches, even after a restart."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            domain, epoch_s = world.deployment.domain, world.deployment.epoch_s
            court = ContractCourt(world.rpc, world.deployment, world.validator)
            silent = FaultDesk(world.database, None)
            witness = FeedWitness(world.database, domain, silent)
            world.feed = GatewayFeed(world.client, domain, epoch_s, FeedState(), witness)
            call = await world.chat("hello")
            changed = msgspec.structs.replace(call.receipt, response_hash=keccak(b"another"))
            rewritten = sign_batch(world, call.signed, receipts_root=merkle_root([changed.struct_hash()]))
            await witness.see([ShownBatch(1, rewritten, ((call.order, changed),))])
            assert sorted(row.kind for row in await load_lies(world.database)) == [0, 1]

            desk = FaultDesk(world.database, court)
            running = asyncio.create_task(desk.run())
            await until_stake(world, PROVIDER.account, Role.PROVIDER, 0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert await proven(world) == [(LieKind.TWO_RECEIPTS, PROVIDER.account, VALIDATOR.account)]

    asyncio.run(story())
