"""Batches and vouchers through crashes: nothing signed is lost, nothing is signed twice, every receipt is paid."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.link_world import until
from tests.node_world import (
    DOMAIN,
    GATEWAY_KEY,
    NodeWorld,
    build_echo,
    offer_service,
    open_node_world,
)

from steelyard.link.port import LeafEntry
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher, sign_voucher
from steelyard.protocol.messages import FinishReason, Voucher
from steelyard.protocol.signing import SigningKey
from steelyard.storage.events import list_events
from steelyard.storage.lies import load_halves, load_lies
from steelyard.storage.node_ledger import last_voucher, load_lanes

OTHER_KEY = SigningKey(b"\x09" * 32)


async def _order_many(world: NodeWorld, count: int, text: str = "x") -> int:
    calls = [world.order(text) for _ in range(count)]
    await asyncio.gather(*(call.ended.wait() for call in calls))
    assert [call.failure for call in calls] == [None] * count
    return sum(call.receipt.cost for call in calls if call.receipt)


def test_batches_hold_at_most_64_calls_and_wait_at_most_the_delay(tmp_path: Path) -> None:
    """150 calls at once make two full batches at once and one more after the delay, in one chain of heads."""

    async def story() -> None:
        async with open_node_world(tmp_path, batch_delay_s=0.2) as world:
            cost = await _order_many(world, 150)
            await until(lambda: world.gateway.paid_nano == cost)
            batches = [signed.batch for signed, _ in world.gateway.batches]
            assert [batch.count for batch in batches] == [64, 64, 22]
            assert [batch.seq for batch in batches] == [1, 2, 3]

    asyncio.run(story())


def test_batch_written_before_a_kill_is_sent_again_with_the_same_digest(tmp_path: Path) -> None:
    """The gateway heard nothing of a batch that was on disk: the restarted node sends that very batch, with leaves."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            world.gateway.is_deaf = True
            cost = await _order_many(world, 5)
            lane = world.node._lanes[world.gateway.lane]
            await until(lambda: lane.state.count == 5)
            written = lane.state
            await world.kill_node()
            world.gateway.is_deaf = False
            world.gateway.up.clear()
            await world.start_node()
            await until(lambda: world.gateway.paid_nano == cost)
            assert world.gateway.lanes[world.gateway.lane] == written
            assert all(entries for _, entries in world.gateway.batches)
            await _order_many(world, 1)
            await until(lambda: world.gateway.lanes[world.gateway.lane].count == 6)

    asyncio.run(story())


def test_restarted_gateway_gets_what_it_missed_and_the_cut_calls(tmp_path: Path) -> None:
    """Calls in flight when the gateway dies end with CANCELLED receipts for what was sent, and are paid afterwards."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_echo(delay_ms=30))]) as world:
            calls = [world.order("a b c d e f g h i j", is_stream=True) for _ in range(3)]
            await until(lambda: all(call.pieces for call in calls))
            await world.restart_gateway()
            await until(lambda: world.node.calls_in_flight == 0)
            lane = world.node._lanes[world.gateway.lane]
            await until(lambda: lane.state.count == 3 and world.gateway.paid_nano == lane.state.cumulative)
            assert all(call.failure and call.failure.code == "link_lost" for call in calls)
            _, entries = world.gateway.batches[-1]
            assert entries
            await until(lambda: lane.promised == lane.state.cumulative > 0)

    asyncio.run(story())


def test_gateway_that_lost_its_memory_still_pays_by_claim(tmp_path: Path) -> None:
    """With an empty database the gateway hears the old lane's whole history, and vouchers come for the old lane."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            world.gateway.is_signing = False
            cost = sum([await _order_many(world, 40) for _ in range(30)])
            old = world.gateway.lane
            account = world.node._lanes[old]
            await until(lambda: account.state.count == 1200)
            assert account.promised == 0
            world.gateway.is_signing = True
            await world.restart_gateway(is_forgetful=True)
            await until(lambda: account.promised == cost)
            claims = world.gateway.claims
            assert [claim.is_last for claim in claims] == [False] * (len(claims) - 1) + [True]
            assert len(claims) > 1
            assert sum(len(claim.batches) for claim in claims) == account.state.seq
            fresh = await _order_many(world, 3)
            await until(lambda: world.gateway.lanes[world.gateway.lane].cumulative == fresh)

    asyncio.run(story())


def test_calls_that_end_after_the_gateway_forgot_their_lane_are_claimed(tmp_path: Path) -> None:
    """Everything before was promised, so nothing is claimed at first; the cut calls' receipts then are."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_echo(delay_ms=30))]) as world:
            done = await _order_many(world, 2)
            old = world.gateway.lane
            account = world.node._lanes[old]
            await until(lambda: account.promised == done)
            call = world.order("a b c d e f g h i j", is_stream=True)
            await until(lambda: call.pieces)
            await world.restart_gateway(is_forgetful=True)
            await until(lambda: account.state.cumulative > done and account.promised == account.state.cumulative)
            shown = world.gateway.claims[-1].voucher
            assert shown is not None
            assert shown.voucher.cumulative == done

    asyncio.run(story())


def _vouchers(world: NodeWorld) -> dict[str, tuple[str, SignedVoucher]]:
    state = world.gateway.lanes[world.gateway.lane]
    good = sign_voucher(state, GATEWAY_KEY, DOMAIN)

    def signed(key: SigningKey = GATEWAY_KEY, **changes: Any) -> SignedVoucher:
        voucher: Voucher = msgspec.structs.replace(good.voucher, **changes)
        return SignedVoucher(voucher, key.sign(DOMAIN.digest(voucher.struct_hash())))

    return {
        "a lower total": ("bad_total", signed(cumulative=state.cumulative - 1)),
        "a higher total": ("bad_total", signed(cumulative=state.cumulative + 1)),
        "a lower count": ("bad_total", signed(count=state.count - 1)),
        "an unknown head": ("bad_total", signed(head=b"\x09" * 32)),
        "a lane of somebody else": ("bad_total", signed(provider=OTHER_KEY.account)),
        "a lane without batches": ("bad_total", signed(lane_id=99)),
        "another signer": ("bad_signature", signed(OTHER_KEY)),
        "another deployment": (
            "bad_signature",
            SignedVoucher(good.voucher, GATEWAY_KEY.sign(b"\x01" * 32)),
        ),
    }


VOUCHERS = (
    "a lower total",
    "a higher total",
    "a lower count",
    "an unknown head",
    "a lane of somebody else",
    "a lane without batches",
    "another signer",
    "another deployment",
)


@pytest.mark.parametrize("name", VOUCHERS)
def test_voucher_that_breaks_the_lane_is_refused_recorded_and_changes_nothing(name: str, tmp_path: Path) -> None:
    """The link is dropped by its code, the event is on disk, the voucher held before still stands, work goes on."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            await _order_many(world, 2)
            account = world.node._lanes[world.gateway.lane]
            await until(lambda: account.promised)
            before = account.voucher
            await _order_many(world, 1)
            await until(lambda: account.promised > (before.voucher.cumulative if before else 0))
            best = account.voucher
            code, bad = _vouchers(world)[name]
            world.gateway.up.clear()
            assert world.gateway.link is not None
            world.gateway.link.send_voucher(bad)
            world.server._vouchers.clear()  # the door would send it again; an honest gateway gives it no such thing
            await asyncio.wait_for(world.gateway.up.wait(), 5)
            await world.writer.flush()
            events = await list_events(world.database)
            assert (events[0].peer, events[0].code) == ("0x" + GATEWAY_KEY.account.hex(), code)
            assert account.voucher == best
            assert await last_voucher(world.database, world.gateway.lane) == best
            cost = await _order_many(world, 1)
            assert best is not None
            await until(lambda: account.promised == best.voucher.cumulative + cost)

    asyncio.run(story())


def test_voucher_that_came_before_is_taken_in_silence(tmp_path: Path) -> None:
    """Vouchers are resent after reconnects: the same one again is no fault, and is stored once."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            await _order_many(world, 2)
            account = world.node._lanes[world.gateway.lane]
            await until(lambda: account.promised)
            assert account.voucher is not None
            assert world.gateway.link is not None
            for _ in range(3):
                world.gateway.link.send_voucher(account.voucher)
            await _order_many(world, 1)
            await until(lambda: account.promised == world.gateway.paid_nano)
            assert await list_events(world.database) == []

    asyncio.run(story())


def test_node_that_lost_its_ledger_serves_other_lanes_and_signs_nothing_twice(tmp_path: Path) -> None:
    """With an empty database the node refuses orders on the lanes that its gateway remembers, and takes new ones."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            await _order_many(world, 3)
            await until(lambda: world.gateway.paid_nano)
            await world.kill_node()
            for path in tmp_path.glob("node.db*"):
                path.unlink()
            world.gateway.up.clear()
            await world.start_node()
            await until(lambda: world.node._lost)
            call = world.order("x")
            await call.ended.wait()
            assert call.failure is not None
            assert call.failure.code == "lane_lost"
            world.gateway.lane_id = 50
            world.gateway.lanes[world.gateway.lane] = LaneState(lane=world.gateway.lane)
            await _order_many(world, 2)
            assert await list_events(world.database) == []

    asyncio.run(story())


def test_gateway_that_lacks_a_receipt_gets_the_whole_batch(tmp_path: Path) -> None:
    """A gateway that gave a call up asks for its batch again, and gets it with the leaf entries."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            calls = [world.order("x") for _ in range(3)]
            await asyncio.gather(*(call.ended.wait() for call in calls))
            del world.gateway.receipts[calls[1].call_id]
            account = world.node._lanes[world.gateway.lane]
            await until(lambda: account.state.count == 3 and account.promised == account.state.cumulative)
            assert [entries for _, entries in world.gateway.batches] == [False, True]

    asyncio.run(story())


_steps = st.lists(
    st.sampled_from(["order", "order", "order", "kill", "stop", "gateway", "forget", "deaf", "hear", "wait"]),
    min_size=3,
    max_size=10,
)


@given(steps=_steps)
def test_whatever_restarts_no_batch_is_doubled_and_all_that_is_written_is_promised(steps: list[str]) -> None:
    """Orders, kill -9 of the node, clean stops, gateway restarts with and without memory, in any order.

    The gateway by hand refuses a second batch of one number, a broken chain of heads, and a call batched twice. In the
    end every lane that the node has on disk is promised to its last nano, and nobody told a lie.
    """
    import tempfile

    async def story(folder: Path) -> None:
        async with open_node_world(folder, credit_base_nano=10**9) as world:
            for step in steps:
                if step == "order":
                    calls = [world.order("x y z", is_stream=bool(n % 2)) for n in range(5)]
                    await asyncio.gather(*(call.ended.wait() for call in calls))
                elif step in ("kill", "stop"):
                    await (world.kill_node() if step == "kill" else world.stop_node())
                    world.gateway.up.clear()
                    await world.start_node()
                elif step in ("gateway", "forget"):
                    await world.restart_gateway(is_forgetful=step == "forget")
                elif step in ("deaf", "hear"):
                    world.gateway.is_deaf = step == "deaf"
                else:
                    await asyncio.sleep(0.06)
            world.gateway.is_deaf = False
            await asyncio.sleep(0.06)
            await world.restart_gateway()
            await until(lambda: _is_all_promised(world), 10)
            assert world.gateway.refused == []
            stored = await load_lanes(world.database)
            assert all(lane.voucher_cumulative_nano == lane.state.cumulative for lane in stored)
            assert await load_lies(world.database) == await load_halves(world.database) == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))


def _is_all_promised(world: NodeWorld) -> bool:
    accounts = world.node._lanes.values()
    return all(account.promised == account.state.cumulative and not account._pending for account in accounts)


def test_leaf_entries_spell_the_receipts_of_their_batch(tmp_path: Path) -> None:
    """What is read back from disk is what was signed: the entries give the batch's root."""

    async def story() -> None:
        from steelyard.node.lane_feed import read_history
        from steelyard.protocol.merkle import merkle_root

        async with open_node_world(tmp_path, batch_calls=8) as world:
            await _order_many(world, 50)
            account = world.node._lanes[world.gateway.lane]
            await until(lambda: account.state.count == 50)
            history: list[tuple[SignedBatch, tuple[LeafEntry, ...]]] = [
                part async for part in read_history(world.database, world.gateway.lane, 2)
            ]
            assert [signed.batch.seq for signed, _ in history] == list(range(3, account.state.seq + 1))
            for signed, entries in history:
                assert merkle_root([entry.receipt.struct_hash() for entry in entries]) == signed.batch.receipts_root
                assert all(entry.receipt.finish_reason == FinishReason.STOP for entry in entries)

    asyncio.run(story())
