"""Budgets, keys and lanes of the gateway: no overspend, no lost voucher, no lower total, through restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway_world import (
    DOMAIN,
    GATEWAY_KEY,
    LIMITS,
    MODEL,
    PRICE_IN,
    PRICE_OUT,
    World,
    now_ms,
    open_world,
    until,
)

from steelyard.errors import BadMessage
from steelyard.link.port import LaneClaim
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Lane
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import SigningKey, require_signer
from steelyard.storage.budgets import load_budget
from steelyard.storage.calls import list_calls
from steelyard.storage.events import list_events
from steelyard.storage.keys import limit_key, revoke_key

CHAT = "/chat/completions"
TEXT = "how much does this weigh"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}]}
HIGHEST = call_cost(len(f"user\n\n{TEXT}") - 1, len(TEXT), PRICE_IN, PRICE_OUT)


async def _settled(world: World) -> int:
    await world.gateway.writer.flush()
    return sum(row.cost_nano for row in await list_calls(world.database, limit=1000))


@pytest.mark.parametrize("is_stream", [False, True])
def test_hundred_parallel_requests_on_half_the_budget_never_overspend(tmp_path: Path, is_stream: bool) -> None:
    """A budget of 50 highest costs: at least 50 are served, the rest are 402, and not a nano is overspent."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, limit_nano=50 * await _highest()) as world:
            body = {**BODY, "stream": is_stream}
            replies = await asyncio.gather(*(_status(world, body) for _ in range(100)))
            served, refused = replies.count(200), replies.count(402)
            assert served + refused == 100
            assert served >= 50
            assert world.key is not None
            budget = await load_budget(world.database, world.key.budget_id)
            assert budget.limit_nano is not None
            assert await _settled(world) <= budget.limit_nano
            assert budget.spent_nano + budget.leased_nano <= budget.limit_nano
            assert refused >= 49

    async def _highest() -> int:
        return HIGHEST

    asyncio.run(story())


async def _status(world: World, body: dict[str, Any]) -> int:
    import aiohttp

    headers = {"authorization": f"Bearer {world.secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.base_url + CHAT, json=body, headers=headers) as reply,
    ):
        await reply.read()
        return reply.status


def test_spent_budget_is_402_with_what_is_left(tmp_path: Path) -> None:
    """`budget_exceeded` names the balance and the deposit address; raising the limit mends it."""

    async def story() -> None:
        async with open_world(tmp_path, limit_nano=HIGHEST + 5) as world:
            assert (await world.post(CHAT, BODY))[0] == 200
            status, reply, headers = await world.post(CHAT, BODY)
            assert (status, reply["error"]["code"]) == (402, "budget_exceeded")
            assert " 5 nano" in reply["error"]["message"]
            assert "0x" + "04" * 20 in reply["error"]["message"]
            assert headers["x-should-retry"] == "false"
            await limit_key(world.database, "test", limit_nano=10 * HIGHEST)
            assert (await world.post(CHAT, BODY))[0] == 200

    asyncio.run(story())


def test_dear_provider_is_passed_over_when_only_the_cheap_one_is_affordable(tmp_path: Path) -> None:
    """A budget too small for the provider that was drawn is tried on a cheaper one before it is refused."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, limit_nano=3 * HIGHEST) as world:
            await world.add_node(0, price=(PRICE_IN * 9, PRICE_OUT * 9))
            await world.add_node(1)
            for _ in range(3):
                assert (await world.post(CHAT, BODY))[0] == 200
            assert not world.nodes[0].requests

    asyncio.run(story())


def test_revoked_key_is_refused_within_a_second(tmp_path: Path) -> None:
    """Also while it is in constant use; the refusal says revoked."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            assert (await world.post(CHAT, BODY))[0] == 200
            await revoke_key(world.database, "test", now_ms=now_ms())
            end = asyncio.get_running_loop().time() + 1.0
            while asyncio.get_running_loop().time() < end:
                await world.post(CHAT, BODY)
            status, reply, _ = await world.post(CHAT, BODY)
            assert (status, reply["error"]["code"]) == (401, "key_revoked")

    asyncio.run(story())


def test_expired_key_is_refused_and_rate_limited_key_told_when(tmp_path: Path) -> None:
    """401 `key_expired`; 429 with Retry-After for rates alone."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            world.secret = await world.new_key("short", expires_ms=now_ms() + 600)
            assert (await world.post(CHAT, BODY))[0] == 200
            await asyncio.sleep(0.7)
            status, reply, _ = await world.post(CHAT, BODY)
            assert (status, reply["error"]["code"]) == (401, "key_expired")
            world.secret = await world.new_key("slow", requests_per_minute=2)
            assert [(await world.post(CHAT, BODY))[0] for _ in range(2)] == [200, 200]
            status, reply, headers = await world.post(CHAT, BODY)
            assert (status, reply["error"]["code"]) == (429, "rate_limit_exceeded")
            assert 1 <= int(headers["retry-after"]) <= 31

    asyncio.run(story())


def test_rate_is_of_the_key_however_its_header_is_spelt(tmp_path: Path) -> None:
    """Spaces and the scheme's case give nobody a second allowance."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            secret = await world.new_key("slow", requests_per_minute=1)
            spelt = [f"Bearer {secret}", f"Bearer  {secret}", f"bearer {secret}", f"BEARER   {secret}"]
            replies = [(await world.post(CHAT, BODY, authorization=header))[0] for header in spelt]
            assert replies == [200, 429, 429, 429]

    asyncio.run(story())


def test_vouchers_follow_batches_and_are_on_disk_before_they_leave(tmp_path: Path) -> None:
    """Totals rise, each is signed by us for a head that the node sent, and the database holds it."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            for number in range(3):
                await world.ask(f"{number}")
                await until(lambda n=number: len(node.vouchers) > n)  # type: ignore[misc]
            totals = [signed.voucher.cumulative for signed in node.vouchers]
            assert totals == sorted(totals)
            assert totals[-1] == await _settled(world)
            for signed in node.vouchers:
                digest = DOMAIN.digest(signed.voucher.struct_hash())
                require_signer(digest, signed.signature, GATEWAY_KEY.account, "voucher")
            (lane,) = world.gateway.payer.lanes.values()
            assert lane.signed_nano == totals[-1]

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
            assert node.vouchers[-1].voucher.cumulative == await _settled(world)

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
            for name in tmp_path.glob("gateway.db*"):
                name.unlink()
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
            for name in tmp_path.glob("gateway.db*"):
                name.unlink()
            await world.start_gateway()
            await world.until_linked(node.key.account)
            signed, entries = node.histories[top.lane][0]
            assert node.client is not None
            assert node.client.link is not None
            node.client.link.send_claim(LaneClaim(top.lane, (signed,), (tuple(entries),), None, False))
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
            assert node.client is not None
            assert node.client.link is not None
            for number in range(5):
                lane = Lane(GATEWAY_KEY.account, node.key.account, service, number)
                node.client.link.send_claim(LaneClaim(lane, (), (), None))
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
            for name in tmp_path.glob("gateway.db*"):
                name.unlink()
            await world.start_gateway()
            await world.until_linked(node.key.account)
            await asyncio.sleep(0.3)
            assert old not in world.gateway.payer.lanes
            assert node.client is not None
            assert node.client.link is not None
            assert node.client.link.is_up

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
            for name in tmp_path.glob("gateway.db*"):
                name.unlink()
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
            assert node.client is not None
            assert node.client.link is not None
            node.resend(node.client.link, lane, 1)
            await until(lambda: world.gateway.metrics.events["bad_total"] > 0)
            assert world.gateway.payer.lanes[lane].state.count == 1

    asyncio.run(story())


def test_redemption_frees_no_budget_twice(tmp_path: Path) -> None:
    """What the escrow pays leaves the deposit and counts as paid: the limit on all spending stays where it was."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            before = world.gateway.watch.sight.limit_nano
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            world.chain.pay(node.vouchers[0])
            await asyncio.sleep(0.5)
            assert world.chain.deposit_nano < (before or 0)
            assert world.gateway.watch.sight.limit_nano == before

    asyncio.run(story())


def test_crashed_slices_count_as_spent_until_they_are_reconciled(tmp_path: Path) -> None:
    """After a crash nothing of the leased slice is free; once the deadlines are past, only what was spent is gone."""

    async def story() -> None:
        async with open_world(tmp_path, limit_nano=40 * HIGHEST, deadline_s=1.5, grace_s=0.1) as world:
            assert (await world.post(CHAT, BODY))[0] == 200
            spent = await _settled(world)
            await _crash(world)
            await world.start_gateway()
            assert world.key is not None
            held = await load_budget(world.database, world.key.budget_id)
            assert held.leased_nano > spent
            assert world.gateway.recovery.is_waiting
            await world.until_linked(world.nodes[0].key.account)
            await until(lambda: not world.gateway.recovery.is_waiting)
            after = await load_budget(world.database, world.key.budget_id)
            assert (after.spent_nano, after.leased_nano) == (spent, 0)

    asyncio.run(story())


def test_call_that_comes_back_after_a_crash_is_charged_to_its_key(tmp_path: Path) -> None:
    """Its row was lost with the process; its id still tells whose it was, and the budget is charged for it."""

    async def story() -> None:
        async with open_world(tmp_path, limit_nano=40 * HIGHEST, deadline_s=1.5, grace_s=0.1) as world:
            node = world.nodes[0]
            node.batches_by_itself = False
            node.gate.clear()
            asking = asyncio.create_task(_status(world, BODY))
            await until(lambda: len(node.requests) == 1)
            await _crash(world)
            node.gate.set()
            await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: any(node.waiting.values()))
            node.send_batches(None)
            await world.start_gateway()
            await until(lambda: any(lane.state.count for lane in world.gateway.payer.lanes.values()))
            await until(lambda: not world.gateway.recovery.is_waiting)
            await world.gateway.writer.flush()
            (row,) = await list_calls(world.database)
            assert world.key is not None
            assert row.key_id == world.key.key_id
            assert row.cost_nano > 0
            budget = await load_budget(world.database, world.key.budget_id)
            assert (budget.spent_nano, budget.leased_nano) == (row.cost_nano, 0)

    asyncio.run(story())


async def _crash(world: World) -> None:
    """End the gateway with its slices open and its links cut, as kill -9 would; what was flushed stays."""
    gateway = world.gateway
    await gateway.writer.flush()
    for link in world.running.links.links:
        link.pipe.abort()

    async def nothing() -> None:
        return None

    gateway.meters.aclose = nothing  # type: ignore[method-assign]
    gateway.payer.lanes.clear()
    for task in asyncio.all_tasks():
        if task.get_name() == "budget-sweep":
            task.cancel()
    await world.stop_gateway()


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
