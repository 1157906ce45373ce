"""Hedged reads: a slow provider doesn't make a client wait, costs its key nothing, and no write is sent twice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_world import World, until
from tests.integration.test_relay_http import BALANCE, call, open_relay, post

SEND = call("eth_sendRawTransaction", ["0x02"])


def prefer(world: World, index: int) -> None:
    """Let all calls go to one provider first, whose calls took 5 ms so far."""
    world.gateway.fronts.watch._judge = lambda listing, now_s: None  # type: ignore[method-assign]
    for seller in world.gateway.catalogue.listings["eth"].sellers:
        is_first = seller.link.provider == world.nodes[index].key.account
        seller.record.doubt = "" if is_first else "the test prefers another"
        for _ in range(64):
            seller.record.add_success(0.005, 1)


async def spent_nano(world: World) -> int:
    """Return what the test's key was charged."""
    assert world.key is not None
    await until(lambda: world.gateway.settlement.in_flight == 0)
    await world.gateway.meters.sweep(idle_s=0.0)
    shown = (await world.get("/calls"))[1]["data"]
    return sum(int(one["cost_nano"]) for one in shown)


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "slow"}], ids=["short cut", "asgi"])
def test_slow_read_is_answered_by_a_second_provider_and_charged_once(tmp_path: Path, headers: dict[str, str]) -> None:
    """The second one's answer comes long before the first one's would; the key pays one of them."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_hedge_share=1.0) as (world, (slow, quick)):
            prefer(world, 0)
            slow.delay_s, quick.balance = 3.0, 7
            began_s = time.monotonic()
            status, answer, had = await post(world, "/rpc/eth", BALANCE, **headers)
            assert time.monotonic() - began_s < 1.0
            assert (status, answer["result"]) == (200, "0x7")
            assert had["x-steelyard-provider"] == "0x" + world.nodes[1].key.account.hex()
            assert world.nodes[0].cancelled
            assert world.gateway.metrics.relay["hedge", "won"] == 1
            assert await spent_nano(world) == 20
            meter = world.gateway.meters.meter(world.key.key_id)  # type: ignore[union-attr]
            assert meter.reserved_nano == 0

    asyncio.run(story())


def test_loser_that_answers_too_is_paid_by_the_gateway_alone(tmp_path: Path) -> None:
    """Its receipt settles the escrow; the key has paid for the answer that was shown."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_hedge_share=1.0) as (world, (slow, second)):
            prefer(world, 0)
            slow.delay_s, second.delay_s = 0.25, 0.3
            status, _, had = await post(world, "/rpc/eth", BALANCE, idempotency_key="both")
            assert (status, had["x-steelyard-provider"]) == (200, "0x" + world.nodes[0].key.account.hex())
            assert world.gateway.metrics.relay["hedge", "asked"] == 1
            assert await spent_nano(world) == 20

    asyncio.run(story())


def test_write_is_never_sent_to_a_second_provider(tmp_path: Path) -> None:
    """However slow its provider is, nor a batch with one write in it, nor a method that isn't known."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_hedge_share=1.0) as (world, (slow, quick)):
            prefer(world, 0)
            slow.delay_s = 0.4
            for body in (SEND, [BALANCE, SEND], call("eth_someNewMethod")):
                for headers in ({}, {"idempotency_key": str(body)}):
                    assert (await post(world, "/rpc/eth", body, **headers))[0] == 200
            assert not quick.asked
            assert not world.gateway.metrics.relay["hedge", "asked"]

    asyncio.run(story())


def test_hedges_are_a_small_share_of_the_reads(tmp_path: Path) -> None:
    """Where everyone is slow, the load isn't doubled."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_hedge_share=0.05) as (world, nodes):
            prefer(world, 0)
            for node in nodes:
                node.delay_s = 0.1

            async def ask(number: int) -> Any:
                return await post(world, "/rpc/eth", BALANCE, idempotency_key=str(number))

            for start in range(0, 60, 20):
                assert all(one[0] == 200 for one in await asyncio.gather(*map(ask, range(start, start + 20))))
            assert 1 <= world.gateway.metrics.relay["hedge", "asked"] <= 1 + 60 * 0.05

    asyncio.run(story())


def test_failure_of_the_first_leaves_the_answer_to_the_second(tmp_path: Path) -> None:
    """Of two that were asked one fails: the other one's answer is shown; if both fail, a third is asked."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=3, relay_hedge_share=1.0) as (world, (first, second, third)):
            prefer(world, 0)
            first.delay_s = 0.3

            async def break_down(payload: Any) -> bytes:
                await asyncio.sleep(0.3)
                raise RuntimeError("the engine broke")

            second.call = break_down  # type: ignore[method-assign]
            first.call = break_down  # type: ignore[method-assign]
            third.balance = 7
            status, answer, _ = await post(world, "/rpc/eth", BALANCE)
            assert (status, answer["result"]) == (200, "0x7")
            assert await spent_nano(world) == 20

    asyncio.run(story())
