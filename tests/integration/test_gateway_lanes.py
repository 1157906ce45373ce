"""Lanes of the gateway: no lost voucher, no lower total, through restarts, claims and batches that break the rules."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway_faults import sum_costs
from tests.gateway_world import (
    DOMAIN,
    GATEWAY_KEY,
    LIMITS,
    MODEL,
    World,
    open_world,
    until,
)

from steelyard.errors import BadMessage
from steelyard.link.port import LaneClaim
from steelyard.link.provider_link import ProviderSession
from steelyard.protocol.lanes import SignedBatch, SignedVoucher
from steelyard.protocol.messages import Lane
from steelyard.protocol.signing import SigningKey, require_signer
from steelyard.storage.events import list_events


def _forget(world: World) -> None:
    for name in world.folder.glob("gateway.db*"):
        name.unlink()


def test_vouchers_follow_batches_and_are_on_disk_before_they_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Totals rise, each is signed by us for a head that the node sent, and a stranger finds it in the file by then."""
    written: list[bool] = []
    send = ProviderSession.send_voucher

    def look_first(link: ProviderSession, signed: SignedVoucher) -> None:
        key = (signed.voucher.lane.key, signed.voucher.count, signed.voucher.cumulative, signed.signature)
        with closing(sqlite3.connect(tmp_path / "gateway.db")) as file:
            query = "SELECT 1 FROM vouchers WHERE (lane_key, count, cumulative_nano, signature) = (?, ?, ?, ?)"
            written.append(file.execute(query, key).fetchone() is not None)
        send(link, signed)

    monkeypatch.setattr(ProviderSession, "send_voucher", look_first)

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            for number in range(3):
                await world.ask(f"{number}")
                await until(lambda n=number: len(node.vouchers) > n)  # type: ignore[misc]
            totals = [signed.voucher.cumulative for signed in node.vouchers]
            assert totals == sorted(totals)
            assert totals[-1] == await sum_costs(world)
            for signed in node.vouchers:
                digest = DOMAIN.digest(signed.voucher.struct_hash())
                require_signer(digest, signed.signature, GATEWAY_KEY.account, "voucher")
            (lane,) = world.gateway.payer.lanes.values()
            assert lane.signed_nano == totals[-1]
            assert len(written) >= 3
            assert all(written)

    asyncio.run(story())


def test_restarted_gateway_keeps_its_lanes_and_pays_what_it_missed(tmp_path: Path) -> None:
    """The node sends what came after the known batch; totals go on, nothing is lost or paid twice."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            await world.ask("before")
            await until(lambda: len(node.vouchers) == 1)
            node.batches_by_itself = False
            await world.ask("in between")
            await world.stop_gateway()
            node.send_batches(None)
            await world.start_gateway()
            await world.until_linked(node.key.account)
            node.batches_by_itself = True
            await until(lambda: node.vouchers[-1].voucher.count == 2)
            await world.ask("after")
            await until(lambda: node.vouchers[-1].voucher.count == 3)
            assert {signed.voucher.lane for signed in node.vouchers} == {node.vouchers[0].voucher.lane}
            assert node.vouchers[-1].voucher.cumulative == await sum_costs(world)

    asyncio.run(story())


def test_gateway_with_an_empty_database_honours_old_lanes_by_their_tags(tmp_path: Path) -> None:
    """New lanes for new calls; the old lane's history is followed and paid, and never below the voucher it shows."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            node.batches_by_itself = False
            await world.ask("two")
            await world.stop_gateway()
            node.send_batches(None)
            _forget(world)
            await world.start_gateway()
            old = node.vouchers[0].voucher.lane
            total = sum(entry.receipt.cost for _, entries in node.histories[old] for entry in entries)
            await until(lambda: node.vouchers[-1].voucher.cumulative == total)
            assert node.vouchers[-1].voucher.lane == old
            world.secret = await world.new_key("new")
            node.batches_by_itself = True
            await world.ask("three")
            await until(lambda: node.vouchers[-1].voucher.lane != old)

    asyncio.run(story())


def test_claim_cut_by_a_restart_is_never_signed_below_its_end(tmp_path: Path) -> None:
    """Half a history proves less than the lost voucher: nothing is signed, and no new order uses that lane."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            for number in range(3):
                await world.ask(f"{number}")
                await until(lambda n=number: len(node.vouchers) > n)  # type: ignore[misc]
            top = node.vouchers[-1].voucher
            node.claims_unknown = False
            await world.stop_gateway()
            _forget(world)
            await world.start_gateway()
            await world.until_linked(node.key.account)
            signed, entries = node.histories[top.lane][0]
            node.link.send_claim(LaneClaim(top.lane, (signed,), (tuple(entries),), None, False))
            await until(lambda: top.lane in world.gateway.payer.lanes)
            node.vouchers.clear()
            await world.stop_gateway()
            await world.start_gateway()
            lane = world.gateway.payer.lanes[top.lane]
            assert (lane.state.seq, lane.is_claiming, lane.is_closed) == (1, True, True)
            await world.until_linked(node.key.account)
            world.secret = await world.new_key("new")
            await world.ask("another")
            await until(lambda: bool(node.vouchers))
            assert {voucher.voucher.lane == top.lane for voucher in node.vouchers} == {False}
            node.vouchers.clear()
            node.claims_unknown = True
            await world.stop_gateway()
            await world.start_gateway()
            await until(lambda: any(voucher.voucher.lane == top.lane for voucher in node.vouchers))
            claimed = [voucher.voucher for voucher in node.vouchers if voucher.voucher.lane == top.lane]
            assert {(voucher.cumulative, voucher.count) for voucher in claimed} == {(top.cumulative, top.count)}
            await world.stop_gateway()
            await world.start_gateway()
            lane = world.gateway.payer.lanes[top.lane]
            assert (lane.is_claiming, lane.is_closed, lane.signed_nano) == (False, True, top.cumulative)

    asyncio.run(story())


def test_claim_that_proves_nothing_opens_no_lane(tmp_path: Path) -> None:
    """A claim needs a batch: an empty one is a breach, and takes no room."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            node = world.nodes[0]
            service, before = node.offer.offer.service_id, len(world.gateway.payer.lanes)
            for number in range(5):
                lane = Lane(GATEWAY_KEY.account, node.key.account, service, number)
                node.link.send_claim(LaneClaim(lane, (), (), None))
            await until(lambda: world.gateway.metrics.events["bad_message"] > 0)
            await asyncio.sleep(0.1)
            assert len(world.gateway.payer.lanes) == before

    asyncio.run(story())


def test_claims_beyond_the_limit_of_a_provider_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claimed lane costs memory and a row: a provider has a bounded number of them."""
    monkeypatch.setattr("steelyard.gateway.payer.MAX_CLAIMED", 0)

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            old = node.vouchers[0].voucher.lane
            await world.stop_gateway()
            _forget(world)
            await world.start_gateway()
            await world.until_linked(node.key.account)
            await asyncio.sleep(0.3)
            assert old not in world.gateway.payer.lanes
            assert node.link.is_up

    asyncio.run(story())


def test_claim_with_orders_that_are_not_ours_is_refused(tmp_path: Path) -> None:
    """A history with one tag changed is no history of ours: the peer is refused, nothing is signed."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            lane = node.vouchers[0].voucher.lane
            await world.stop_gateway()
            _forget(world)
            ((signed, (entry,)),) = node.histories[lane]
            forged = msgspec.structs.replace(entry, tag=b"\x00" * 16)
            node.histories[lane] = [(signed, [forged])]
            node.vouchers.clear()
            await world.start_gateway()
            await until(lambda: world.gateway.metrics.events["bad_message"] > 0)
            await asyncio.sleep(0.3)
            assert not node.vouchers

    asyncio.run(story())


@pytest.mark.parametrize("fault", ["cumulative", "root", "signature", "prev_head", "count"])
def test_batch_that_breaks_its_lane_is_refused_and_recorded(tmp_path: Path, fault: str) -> None:
    """The link is dropped, the event recorded, no voucher signed for it."""

    def spoil(signed: SignedBatch) -> SignedBatch:
        batch = signed.batch
        change: dict[str, Any] = {
            "cumulative": {"cumulative": batch.cumulative + 1},
            "root": {"receipts_root": b"\x01" * 32},
            "prev_head": {"prev_head": b"\x01" * 32},
            "count": {"count": batch.count + 1},
            "signature": {},
        }[fault]
        changed = msgspec.structs.replace(batch, **change)
        key = SigningKey(b"\x77" * 32) if fault == "signature" else world_node.key
        return SignedBatch(changed, key.sign(DOMAIN.digest(changed.struct_hash())))

    async def story() -> None:
        nonlocal world_node
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world_node = world.nodes[0]
            node.spoil_batch = spoil
            await world.ask("one")
            await until(lambda: sum(world.gateway.metrics.events.values()) > 0)
            await world.gateway.writer.flush()
            assert await list_events(world.database, peer="0x" + node.key.account.hex())
            assert not node.vouchers

    world_node: Any = None
    asyncio.run(story())


def test_order_is_billed_once_even_if_its_batch_comes_with_entries_again(tmp_path: Path) -> None:
    """A second batch over a call that is in one already is refused."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            (lane,) = node.histories
            ((_, (entry,)),) = node.histories[lane]
            node.waiting[lane].append(entry)
            node.send_batches(None)
            node.resend(node.link, lane, 1)
            await until(lambda: world.gateway.metrics.events["bad_total"] > 0)
            assert world.gateway.payer.lanes[lane].state.count == 1

    asyncio.run(story())


def test_node_of_another_deployment_or_without_stake_is_not_admitted(tmp_path: Path) -> None:
    """It is told why, and the event is recorded."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            node = world.build_node(0)
            world.chain.active.clear()
            node.dial(world.running.address.link_url, LIMITS)
            await until(lambda: world.gateway.metrics.events["not_staked"] > 0)
            assert MODEL not in world.gateway.catalogue.listings

    asyncio.run(story())


def test_unproven_refusals_are_counted_and_few_are_kept(tmp_path: Path) -> None:
    """Whoever dials can be refused as often as they like: no row each, and proven peers are recorded all the same."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            side, peer = world.gateway.side, world.nodes[0].key.account
            for _ in range(50):
                side.on_peer_refused(None, BadMessage("the test says so"))
            for _ in range(2):
                side.on_peer_refused(peer, BadMessage("the test says so"))
            await world.gateway.writer.flush()
            assert len(await list_events(world.database, peer="unproven")) == 1
            assert len(await list_events(world.database, peer="0x" + peer.hex())) == 2
            assert world.gateway.metrics.events["bad_message"] == 52

    asyncio.run(story())
