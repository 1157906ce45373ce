"""A provider that signs twice: the gateway keeps both halves, proves each lie once, and accuses nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tests.gateway_node import ScriptedNode
from tests.gateway_world import LIMITS, World, open_world, until
from tests.lie_court import MemoryCourt

from steelyard.link.port import LaneClaim, LeafEntry
from steelyard.protocol.hashing import keccak
from steelyard.protocol.lanes import SignedBatch, extend_lane
from steelyard.protocol.lies import LieKind, TwoReceipts
from steelyard.protocol.messages import Lane
from steelyard.storage.database import open_database
from steelyard.storage.events import list_events
from steelyard.storage.lies import LieState, load_halves, load_lies

History = list[tuple[SignedBatch, list[LeafEntry]]]


def history_of(node: ScriptedNode) -> tuple[Lane, History]:
    """Return the lane that a node has, and what it signed on it."""
    ((lane, history),) = node.histories.items()
    return lane, history


def sign_other(node: ScriptedNode, signed: SignedBatch, **changes: Any) -> SignedBatch:
    """Sign a batch of a node's again, with other fields."""
    batch = msgspec.structs.replace(signed.batch, **changes)
    return SignedBatch(batch, node.key.sign(node.domain.digest(batch.struct_hash())))


def send(node: ScriptedNode, signed: SignedBatch, entries: Sequence[LeafEntry]) -> None:
    """Send a batch with its entries."""
    node.link.send_batch(signed, [entry.order.call_id for entry in entries], tuple(entries))


def bill_again(node: ScriptedNode, entry: LeafEntry, **changes: Any) -> tuple[SignedBatch, list[LeafEntry]]:
    """Extend a node's lane by another receipt for an order that it billed before."""
    lane, _ = history_of(node)
    other = LeafEntry(entry.order, entry.tag, msgspec.structs.replace(entry.receipt, **changes))
    receipt = other.receipt
    _, signed = extend_lane(node.states[lane], [receipt.struct_hash()], [receipt.cost], node.key, node.domain)
    return signed, [other]


async def serve(world: World, *texts: str) -> None:
    """Have chats answered, batched one by one and followed."""
    metrics = world.gateway.metrics
    for count, text in enumerate(texts, start=metrics.batches + 1):
        await world.ask(text)
        await until(lambda wanted=count: metrics.batches >= wanted)  # type: ignore[misc]


async def relink(world: World, node: ScriptedNode) -> None:
    """Let a node that was dropped come back."""
    await world.until_linked(node.key.account)
    await until(lambda: node.client is not None and node.client.link is not None and node.client.link.is_up)


async def until_proven(court: MemoryCourt, count: int) -> None:
    """Wait until so many lies are proven, and see that no more follow."""
    await until(lambda: len(court.known) >= count)
    await asyncio.sleep(0.2)
    assert len(court.sent) == count


def test_second_batch_of_a_number_is_proven_once(tmp_path: Path) -> None:
    """Sent again and again, and after a restart too, it is one lie, told in the events and counted."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two", "three")
            _, history = history_of(node)
            other = sign_other(node, history[1][0], receipts_root=keccak(b"another"))
            send(node, other, history[1][1])
            await until_proven(court, 1)
            (lie,) = court.sent
            assert (lie.kind, lie.liar) == (LieKind.TWO_BATCHES, node.key.account)
            _, text, _ = await world.get("//metrics")
            assert 'steelyard_gateway_lies_total{kind="two_batches",step="proven"} 1.0' in text
            await relink(world, node)
            send(node, other, history[1][1])
            await asyncio.sleep(0.3)
            await world.stop_gateway()
            await world.start_gateway()
            await relink(world, node)
            send(node, other, history[1][1])
            await until_proven(court, 1)
            codes = [event.code for event in await list_events(world.database, peer="0x" + node.key.account.hex())]
            assert (codes.count("lie_found"), codes.count("lie_proven")) == (1, 1)

    asyncio.run(story())


def test_second_batch_without_its_receipts_is_proven(tmp_path: Path) -> None:
    """A provider that never sends what would be refused is seen all the same."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two")
            _, history = history_of(node)
            node.histories.clear()
            node.link.send_batch(sign_other(node, history[1][0], cumulative=10**9), [b"\x01" * 16])
            await until_proven(court, 1)

    asyncio.run(story())


def test_batch_off_its_lanes_path_is_proven(tmp_path: Path) -> None:
    """The next number under another previous head; and one far ahead with a lower total."""

    async def story(changes: dict[str, Any], folder: Path) -> None:
        court = MemoryCourt()
        async with open_world(folder, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two")
            _, history = history_of(node)
            send(node, sign_other(node, history[1][0], **changes), history[1][1])
            await until_proven(court, 1)
            assert court.sent[0].kind == LieKind.TWO_BATCHES

    asyncio.run(story({"seq": 3, "prev_head": keccak(b"elsewhere"), "cumulative": 10**9}, tmp_path / "head"))
    asyncio.run(story({"seq": 9, "cumulative": 1}, tmp_path / "total"))


def test_second_receipt_of_an_order_is_proven(tmp_path: Path) -> None:
    """An order that stands in a batch comes again by its tag with another answer: both receipts are shown."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two")
            _, history = history_of(node)
            entry = history[0][1][0]
            send(node, *bill_again(node, entry, response_hash=keccak(b"another answer")))
            await until_proven(court, 1)
            (lie,) = court.sent
            assert isinstance(lie, TwoReceipts)
            assert {lie.one.receipt, lie.other.receipt} > {entry.receipt}
            assert lie.liar == node.key.account

    asyncio.run(story())


def test_same_receipt_in_a_second_batch_is_refused_and_no_lie(tmp_path: Path) -> None:
    """It is not paid twice; but the two receipts say one thing, and the contract would find no contradiction."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two")
            _, history = history_of(node)
            send(node, *bill_again(node, history[0][1][0]))
            await until(lambda: world.gateway.metrics.events["bad_total"] > 0)
            await asyncio.sleep(0.2)
            assert court.sent == []

    asyncio.run(story())


def test_batch_that_takes_a_refused_ones_place_is_proven_after_a_restart(tmp_path: Path) -> None:
    """One that overcharges is refused, no lie yet; the gateway restarts; the honest one in its place makes it a lie."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one")
            node.spoil_batch = lambda signed: sign_other(node, signed, cumulative=signed.batch.cumulative + 1)
            await world.ask("two")
            await until(lambda: world.gateway.metrics.events["bad_total"] > 0)
            node.spoil_batch = lambda signed: signed
            await node.kill()
            await asyncio.sleep(0.2)
            assert court.sent == []
            assert len(await load_halves(world.database)) == 1
            await world.stop_gateway()
            await world.start_gateway()
            node.dial(world.running.address.link_url, LIMITS)
            await relink(world, node)
            await until_proven(court, 1)
            assert court.sent[0].kind == LieKind.TWO_BATCHES

    asyncio.run(story())


def test_lie_found_before_a_kill_is_proven_after_it(tmp_path: Path) -> None:
    """While the chain is silent both halves lie on disk; the next life of the gateway proves it."""

    async def story() -> None:
        court = MemoryCourt(is_silent=True)
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two")
            _, history = history_of(node)
            send(node, sign_other(node, history[1][0], cumulative=10**9), history[1][1])
            await until(lambda: bool(world.gateway.desk.counts))
            assert court.sent == []
            for task in asyncio.all_tasks():
                if task.get_name() == "gateway-lies":
                    task.cancel()
            await world.stop_gateway()
            assert [row.state for row in await _lies(world)] == [LieState.WAITING]
            court.is_silent = False
            await world.start_gateway()
            await until(lambda: len(court.sent) == 1, timeout_s=20)

    asyncio.run(story())


async def _lies(world: World) -> list[Any]:
    database = await open_database(f"sqlite:///{world.folder}/gateway.db")
    try:
        return list(await load_lies(database))
    finally:
        await database.aclose()


def test_history_that_is_claimed_otherwise_is_proven(tmp_path: Path) -> None:
    """A claim that rewrites a lane which the gateway knows is held against what it knows, batch by batch."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two", "three")
            lane, history = history_of(node)
            parts = list(history)
            parts[1] = (sign_other(node, parts[1][0], cumulative=10**9), parts[1][1])
            node.link.send_claim(
                LaneClaim(lane, tuple(part[0] for part in parts), tuple(tuple(part[1]) for part in parts), None)
            )
            await until_proven(court, 1)
            assert court.sent[0].kind == LieKind.TWO_BATCHES

    asyncio.run(story())


def test_honest_provider_is_never_accused(tmp_path: Path) -> None:
    """Batches sent again, whole and in parts, claims of what is known, relinks, restarts, a gateway without memory."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_world(tmp_path, court=court) as world:
            node = world.nodes[0]
            await serve(world, "one", "two", "three")
            lane, history = history_of(node)
            for round_ in range(3):
                for signed, entries in (*history, *reversed(history)):
                    send(node, signed, entries)
                batches, entries = tuple(part[0] for part in history), tuple(tuple(part[1]) for part in history)
                node.link.send_claim(LaneClaim(lane, batches, entries, None))
                await asyncio.sleep(0.1)
                if round_ == 0:
                    await node.kill()
                    node.dial(world.running.address.link_url, LIMITS)
                elif round_ == 1:
                    await world.stop_gateway()
                    await world.start_gateway()
                await relink(world, node)
                await serve(world, f"round {round_}")
            await world.stop_gateway()
            for file in tmp_path.glob("gateway.db*"):
                file.unlink()
            await world.start_gateway()
            await relink(world, node)
            await until(lambda: any(known.is_closed for known in world.gateway.payer.lanes.values()))
            for signed, entries in history:
                send(node, signed, entries)
            await asyncio.sleep(0.3)
            assert court.sent == []
            assert await load_lies(world.database) == []
            assert await load_halves(world.database) == []

    asyncio.run(story())
