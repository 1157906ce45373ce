"""Budgets and keys of the gateway: no overspend, through revocation, redemption and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_faults import sum_costs
from tests.gateway_world import (
    MODEL,
    PRICE_IN,
    PRICE_OUT,
    World,
    now_ms,
    open_world,
    until,
)
from tests.integration.test_gateway_openai import Vectors

from steelyard.protocol.pricing import call_cost
from steelyard.storage.budgets import load_budget
from steelyard.storage.calls import list_calls
from steelyard.storage.keys import limit_key, load_key, revoke_key

CHAT = "/chat/completions"
TEXT = "how much does this weigh"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}]}
HIGHEST = call_cost(len(f"user\n\n{TEXT}") - 1, len(TEXT), PRICE_IN, PRICE_OUT)


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
            assert await sum_costs(world) <= budget.limit_nano
            assert budget.spent_nano + budget.leased_nano <= budget.limit_nano
            assert refused >= 49

    async def _highest() -> int:
        return HIGHEST

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completions", {"model": MODEL, "prompt": TEXT}),
        ("/completions", {"model": MODEL, "prompt": TEXT, "stream": True}),
        ("/embeddings", {"model": "vectors-1", "input": [TEXT, "and this"]}),
    ],
    ids=["completions", "completions, streamed", "embeddings"],
)
def test_budget_holds_on_the_other_routes_too(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """A hundred at once on a budget of 50 highest costs: 50 orders leave while none is settled, and none beyond it."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            await world.add_node(1, service=Vectors())  # type: ignore[arg-type]
            assert await _status(world, body, path) == 200
            (first,) = (await world.get("/calls"))[1]["data"]
            limit = 50 * (await world.get(f"/calls/{first['id']}"))[1]["order"]["max_cost"]
            secret = await world.new_key("fifty", limit_nano=limit)
            for node in world.nodes:
                node.gate.clear()
            asking = [asyncio.create_task(_status(world, body, path, secret)) for _ in range(100)]
            await until(lambda: sum(task.done() for task in asking) == 50)
            assert sum(len(node.requests) for node in world.nodes) - 1 == 50
            for node in world.nodes:
                node.gate.set()
            replies = await asyncio.gather(*asking)
            assert (replies.count(200), replies.count(402)) == (50, 50)
            budget = await load_budget(world.database, (await load_key(world.database, "fifty")).budget_id)
            assert budget.spent_nano + budget.leased_nano <= limit
            assert await sum_costs(world) - first["cost_nano"] <= limit

    asyncio.run(story())


async def _status(world: World, body: dict[str, Any], path: str = CHAT, secret: str = "") -> int:
    import aiohttp

    headers = {"authorization": f"Bearer {secret or world.secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.base_url + path, json=body, headers=headers) as reply,
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
            spent = await sum_costs(world)
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
            await _crash(world, then=node.gate.set)
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


async def _crash(world: World, *, then: Callable[[], None] = lambda: None) -> None:
    """End the gateway with its slices open and its links cut, as kill -9 would; what was flushed stays.

    `then` is what happens elsewhere in the moment after.
    """
    gateway = world.gateway
    await gateway.writer.flush()
    listener = world.running.links._server
    assert listener is not None
    listener.close()  # nobody listens any more: a node that dials again finds nothing to go on with
    for link in world.running.links.links:
        link.pipe.abort()
    then()

    async def nothing() -> None:
        return None

    gateway.meters.aclose = nothing  # type: ignore[method-assign]
    gateway.payer.lanes.clear()
    for task in asyncio.all_tasks():
        if task.get_name() == "budget-sweep":
            task.cancel()
    await world.stop_gateway()
