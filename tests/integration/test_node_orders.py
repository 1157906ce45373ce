"""Orders over real sockets: what a node takes, what it refuses, and what it bills."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.link_world import LIMITS, until
from tests.node_world import GATEWAY_KEY, build_echo, offer_service, open_node_world

from steelyard.link.server import unix_ms
from steelyard.protocol.messages import FinishReason


def test_order_is_answered_batched_and_promised(tmp_path: Path) -> None:
    """Whole and streamed answers come with receipts that check; within the delay a batch and a voucher follow."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            whole = world.order("hello there")
            stream = world.order("one two three", is_stream=True)
            await asyncio.gather(whole.ended.wait(), stream.ended.wait())
            assert whole.content == b"hello there"
            assert len(whole.pieces) == 1
            assert stream.content == b"one two three"
            assert len(stream.pieces) == 3
            assert whole.receipt is not None
            assert stream.receipt is not None
            assert whole.receipt.finish_reason == FinishReason.STOP
            cost = whole.receipt.cost + stream.receipt.cost
            assert cost == 3 * (len("hello there") + len("one two three")) + 2 * len("user:")
            await until(lambda: world.gateway.paid_nano == cost)
            lane = world.node._lanes[world.gateway.lane]
            await until(lambda: lane.promised == cost)
            assert all(not entries for _, entries in world.gateway.batches)

    asyncio.run(story())


BAD_ORDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "another gateway": ("bad_order", {"gateway": b"\x09" * 20}),
    "another provider": ("bad_order", {"provider": GATEWAY_KEY.account}),
    "an unknown service": ("not_served", {"service_id": b"\x09" * 32}),
    "a lower input price": ("bad_order", {"price_in": 999_999}),
    "a lower output price": ("bad_order", {"price_out": 1_999_999}),
    "another grade": ("bad_order", {"grade": 3}),
    "a past deadline": ("deadline", {"deadline_ms": unix_ms() - 10_000}),
    "a far deadline": ("bad_order", {"deadline_ms": unix_ms() + 10**9}),
    "another body": ("bad_order", {"request_hash": b"\x09" * 32}),
    "a prefix": ("bad_order", {"prefix_hash": b"\x09" * 32}),
    "a highest cost below the quote": ("bad_order", {"max_cost": 14}),
    "another api": ("not_served", {"api": "embeddings"}),
    "a body that doesn't parse": ("invalid_request", {"body": b"{"}),
    "a body with what is not honoured": (
        "invalid_request",
        {"body": b'{"model":"echo-1","messages":[{"role":"user","content":"x"}],"logit_bias":{"1":2}}'},
    ),
    "a cost beyond the window": ("credit_window", {"max_cost": 10**9}),
    "a cost beyond what the stake allows": ("order_too_large", {"max_cost": 10**12}),
}


@pytest.mark.parametrize("name", BAD_ORDERS)
def test_order_with_a_wrong_field_is_refused_by_code(name: str, tmp_path: Path) -> None:
    """Each refusal has its code, nothing is billed, and the link stays up."""
    code, changes = BAD_ORDERS[name]

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            call = world.order("hello", **changes)
            await call.ended.wait()
            assert call.failure is not None
            assert call.failure.code == code
            good = world.order("hello")
            await good.ended.wait()
            assert good.receipt is not None
            assert world.node.calls_in_flight == 0

    asyncio.run(story())


def test_call_that_was_taken_is_refused_again_even_after_a_restart(tmp_path: Path) -> None:
    """A replayed order never gets a second receipt: not while it runs, not later, not from a restarted node."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            deadline_ms = unix_ms() + 60_000
            same: dict[str, Any] = {"call_id": b"\x77" * 16, "salt": b"\x01" * 32, "deadline_ms": deadline_ms}
            first = world.order("hello", **same)
            await first.ended.wait()
            again = world.order("hello", **same)
            await again.ended.wait()
            assert again.failure is not None
            assert again.failure.code == "bad_order"
            await until(lambda: world.gateway.paid_nano)
            await world.kill_node()
            world.gateway.up.clear()
            await world.start_node()
            later = world.order("hello", **same)
            await later.ended.wait()
            assert later.failure is not None
            assert later.failure.code == "bad_order"

    asyncio.run(story())


def test_cancelled_stream_is_billed_for_exactly_what_left(tmp_path: Path) -> None:
    """The caller hangs up while the stream waits for grants: the receipt covers the pieces that came, no more.

    The gateway's end of the test checks the response hash over them.
    """

    async def story() -> None:
        words = " ".join(f"w{n}" for n in range(200))
        async with open_node_world(tmp_path) as world:
            call = world.order(words, is_stream=True, grants=0)
            await until(lambda: len(call.pieces) == LIMITS.window_pieces)
            call.link.cancel_call(call.call_id)
            await call.ended.wait()
            assert call.receipt is not None
            assert call.receipt.finish_reason == FinishReason.CANCELLED
            assert call.receipt.units_out == len(call.content)
            assert words.encode().startswith(call.content)
            assert world.gateway.refused == []
            await until(lambda: world.node.calls_in_flight == 0)

    asyncio.run(story())


def test_cancel_stops_the_engine_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    """An engine in the middle of its work is stopped at once, whether it streams or not."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_echo(delay_ms=200))]) as world:
            stream = world.order("a b c d e f g h", is_stream=True)
            whole = world.order("a b c d e f g h")
            await until(lambda: stream.pieces)
            for call in (stream, whole):
                call.link.cancel_call(call.call_id)
            async with asyncio.timeout(0.15):
                await asyncio.gather(stream.ended.wait(), whole.ended.wait())
            assert stream.receipt is not None
            assert stream.receipt.finish_reason == FinishReason.CANCELLED

    asyncio.run(story())


def test_deadline_ends_a_stream_with_an_error_receipt(tmp_path: Path) -> None:
    """What was sent before the deadline is billed, and the answer is marked as cut."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_echo(delay_ms=100))]) as world:
            call = world.order("a b c d e f g h", is_stream=True, deadline_ms=unix_ms() + 350)
            await call.ended.wait()
            assert call.receipt is not None
            assert call.receipt.finish_reason == FinishReason.ERROR
            assert 0 < len(call.pieces) < 8

    asyncio.run(story())


def test_service_at_its_bound_is_busy(tmp_path: Path) -> None:
    """An engine that bears two calls gets two; the third is told to go elsewhere, and is taken when there is room."""

    async def story() -> None:
        service = offer_service(build_echo(delay_ms=100), max_calls=2)
        async with open_node_world(tmp_path, services=[service]) as world:
            calls = [world.order("a b") for _ in range(3)]
            await asyncio.gather(*(call.ended.wait() for call in calls))
            codes = [call.failure.code if call.failure else "" for call in calls]
            assert sorted(codes) == ["", "", "busy"]
            later = world.order("a b")
            await later.ended.wait()
            assert later.receipt is not None

    asyncio.run(story())


def test_node_stops_serving_a_gateway_at_its_credit_window(tmp_path: Path) -> None:
    """Without payment a stranger gets its base window and no more; what the chain pays opens it again and wider."""

    async def story() -> None:
        async with open_node_world(tmp_path, credit_base_nano=100, redeem_value_nano=10**9) as world:
            served = 0
            while True:
                call = world.order("0123456789")  # costs 35, at most 50
                await call.ended.wait()
                if call.failure is not None:
                    break
                served += call.receipt.cost if call.receipt else 0
            assert call.failure.code == "credit_window"
            assert served == 70
            await until(lambda: world.node._lanes[world.gateway.lane].promised == 70)
            await world.node.redeemer.redeem_all()
            await asyncio.sleep(0)
            credit = world.node._watch.credit(GATEWAY_KEY.account)
            await until(lambda: credit.paid == 70)
            assert credit.window == 100 + 7
            again = world.order("0123456789")
            await again.ended.wait()
            assert again.receipt is not None

    asyncio.run(story())


@pytest.mark.parametrize("reason", ["withdrawal", "stake"])
def test_gateway_that_withdraws_or_loses_its_stake_gets_no_credit(reason: str, tmp_path: Path) -> None:
    """Credit is zero from the announcement on, and while the stake is missing; orders say why."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            if reason == "withdrawal":
                world.chain.withdrawal_nano = 5
                world.chain.change()
                await asyncio.sleep(0.01)
            else:
                world.chain.staked.clear()
                await world.node._watch.look()
            call = world.order("hello")
            await call.ended.wait()
            assert call.failure is not None
            assert call.failure.code == "credit_window"
            assert reason in call.failure.message
            world.chain.withdrawal_nano = 0
            world.chain.staked.add(GATEWAY_KEY.account)
            world.chain.change()
            await world.node._watch.look()
            again = world.order("hello")
            await again.ended.wait()
            assert again.receipt is not None

    asyncio.run(story())


def test_gateway_without_stake_is_not_served_at_all(tmp_path: Path) -> None:
    """A gateway that isn't in the registry is refused in the handshake, and the event is on disk."""

    async def story() -> None:
        from steelyard.storage.events import list_events

        async with open_node_world(tmp_path) as world:
            world.chain.staked.clear()
            world.gateway.up.clear()
            assert world.gateway.link is not None
            world.gateway.link.drop("so that it dials again")
            await asyncio.sleep(0.3)
            assert not world.gateway.up.is_set()
            await world.writer.flush()
            events = await list_events(world.database)
            assert "unknown_gateway" in {event.code for event in events}
            assert {event.peer for event in events} == {"0x" + GATEWAY_KEY.account.hex()}
            world.chain.staked.add(GATEWAY_KEY.account)
            await asyncio.wait_for(world.gateway.up.wait(), 5)

    asyncio.run(story())


def test_node_that_stops_lets_calls_end_and_then_cuts_them(tmp_path: Path) -> None:
    """A short call ends whole; a long one is cut with reason ERROR and billed for what left; no new one is taken."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_echo(delay_ms=100))]) as world:
            short = world.order("a b", is_stream=True)
            long = world.order(" ".join("abcdefghijklmnopqrstuvwxyz"), is_stream=True)
            await until(lambda: short.pieces and long.pieces)
            closing = asyncio.create_task(world.node.close(drain_s=0.5))
            await asyncio.sleep(0)
            late = world.order("a")
            await closing
            await asyncio.gather(short.ended.wait(), long.ended.wait(), late.ended.wait())
            assert short.receipt is not None
            assert short.receipt.finish_reason == FinishReason.STOP
            assert long.receipt is not None
            assert long.receipt.finish_reason == FinishReason.ERROR
            assert late.failure is not None
            assert late.failure.code == "busy"
            cost = short.receipt.cost + long.receipt.cost
            await until(lambda: world.gateway.paid_nano == cost)

    asyncio.run(story())


def test_lanes_with_one_gateway_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that opens a lane for every call is refused at the bound."""
    monkeypatch.setattr("steelyard.node.node.MAX_LANES", 3)

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            calls = [world.order("x", lane_id=100 + n) for n in range(4)]
            await asyncio.gather(*(call.ended.wait() for call in calls))
            assert [call.failure is None for call in calls] == [True, True, True, False]

    asyncio.run(story())
