"""A stream that loses its provider in the middle goes on elsewhere: one answer, one end, one bill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.gateway_faults import WORDS, list_rows, settle_spent
from tests.gateway_node import ScriptedNode
from tests.gateway_world import LIMITS, MODEL, World, open_world, until
from tests.integration.test_gateway_money import _crash as crash
from tests.service_world import END, LetterEngine

from steelyard.link.limits import LinkLimits
from steelyard.link.port import LeafEntry, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.services.chat import ChatService
from steelyard.services.port import decode_prefix
from steelyard.storage.budgets import load_budget
from steelyard.storage.calls import list_calls

PRICES = ((1_000_000, 2_000_000), (3_000_000, 5_000_000))
LETTERS = "letters"
TEXT = "a ß and a 🦄 went quick to the end"


@dataclass
class Answer:
    """A stream as its client read it."""

    raw: bytes
    text: str
    roles: int
    ids: set[str]
    finishes: list[str]
    last: dict[str, Any]

    @property
    def stamp(self) -> dict[str, Any]:
        """The `steelyard` object."""
        return dict(self.last["steelyard"])


async def stream(world: World, model: str, **fields: Any) -> Answer:
    """Read one streamed chat."""
    body = {"model": model, "stream": True, "stream_options": {"include_usage": True}} | fields
    body.setdefault("messages", [{"role": "user", "content": WORDS}])
    headers = {"authorization": f"Bearer {world.secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.base_url + "/chat/completions", json=body, headers=headers) as reply,
    ):
        assert reply.status == 200, await reply.text()
        raw = await reply.read()
    events = [json.loads(e.removeprefix(b"data: ")) for e in raw.strip().split(b"\n\n") if e != b"data: [DONE]"]
    choices = [choice for event in events for choice in event["choices"]]
    return Answer(
        raw,
        "".join(choice["delta"].get("content") or "" for choice in choices),
        sum("role" in choice["delta"] for choice in choices),
        {event["id"] for event in events},
        [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        events[-1],
    )


async def add_letters(world: World, index: int, script: list[int] | None = None) -> ScriptedNode:
    """A node that sells a chat stepped by our sampler, and says a text."""
    engine = LetterEngine([*TEXT.encode(), END] if script is None else script)
    service = ChatService(ChatService.describe(LETTERS, engine.info), engine=engine)
    await service.prepare(lambda *_: None)
    return await world.add_node(index, price=PRICES[index % 2], model=LETTERS, service=service)


def stop_first(world: World, spoil: Callable[[ScriptedNode], None]) -> None:
    """Let whoever is asked first go wrong, and nobody after it."""
    seen: list[ScriptedNode] = []
    for node in world.nodes:
        plain = node.on_call

        def on_call(link: Any, request: Any, *, is_stream: bool, node: Any = node, plain: Any = plain) -> None:
            if not seen:
                spoil(node)
            seen.append(node)
            plain(link, request, is_stream=is_stream)

        node.on_call = on_call  # type: ignore[method-assign]


def garble(count: int, content: bytes) -> Callable[[ScriptedNode], None]:
    """Send something else as piece number `count`."""

    def spoil(node: ScriptedNode) -> None:
        seen = 0

        def change(piece: Piece) -> Piece:
            nonlocal seen
            seen += 1
            return msgspec.structs.replace(piece, content=content) if seen == count else piece

        node.spoil_piece = change

    return spoil


def _set(name: str, value: Any) -> Callable[[ScriptedNode], None]:
    return lambda node: setattr(node, name, value)


FAULTS: dict[str, Callable[[ScriptedNode], None]] = {
    "cut": _set("cut_after", 3),
    "engine": _set("engine_breaks_after", 3),
    "stall": _set("stall_after", 3),
    "utf8": garble(4, b"\xf0\x9f"),
    "receipt": _set("spoil_receipt", lambda receipt: msgspec.structs.replace(receipt, cost=receipt.cost + 1)),
    "hash": _set("spoil_receipt", lambda receipt: msgspec.structs.replace(receipt, response_hash=b"\x01" * 32)),
    "unasked cancel": _set("spoil_receipt", lambda receipt: msgspec.structs.replace(receipt, finish_reason=4)),
}
CODES = {
    "cut": "link_lost",
    "engine": "engine_error",
    "stall": "stalled",
    "utf8": "bad_piece",
    "receipt": "bad_receipt",
    "hash": "bad_receipt",
    "unasked cancel": "bad_receipt",
}
QUICK: dict[str, Any] = {"stall_s": 1.5, "deadline_s": 20.0}


@pytest.mark.parametrize("fault", FAULTS)
def test_chat_that_loses_its_provider_goes_on_from_its_prefix(tmp_path: Path, fault: str) -> None:
    """One id, one role, one end; the text is the undisturbed one's, usage and cost are for what was received."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, **QUICK) as world:
            for index in range(2):
                await add_letters(world, index)
            whole = await stream(world, LETTERS, seed=5, temperature=0.8)
            before = await settle_spent(world)
            for node in world.nodes:
                node.requests.clear()
            stop_first(world, FAULTS[fault])
            answer = await stream(world, LETTERS, seed=5, temperature=0.8)
            assert answer.text == whole.text == TEXT
            assert (answer.roles, len(answer.ids), answer.finishes) == (1, 1, ["stop"])
            assert answer.raw.count(b"[DONE]") == 1
            assert answer.last["usage"] == whole.last["usage"]
            first, second = sorted(world.nodes, key=lambda node: bool(node.requests[0].prefix))
            (order,) = [request.order for request in second.requests]
            prefix = decode_prefix(second.requests[0].prefix)
            assert TEXT.encode().startswith(prefix.content)
            assert order.prefix_hash == content_hash(second.requests[0].salt, second.requests[0].prefix)
            assert first.requests[0].order.prefix_hash == ZERO32
            assert order.sampler_seed == first.requests[0].order.sampler_seed
            assert answer.stamp["rescues"] == [{"provider": "0x" + first.key.account.hex(), "reason": CODES[fault]}]
            assert answer.stamp["provider"] == "0x" + second.key.account.hex()
            usage, one, two = answer.last["usage"], first.offer.offer, second.offer.offer
            rest = usage["completion_tokens"] - prefix.units_out
            cost = call_cost(usage["prompt_tokens"], prefix.units_out, one.price_in, one.price_out)
            cost += call_cost(0, rest, two.price_in, two.price_out)
            assert answer.stamp["cost_nano"] == cost
            assert world.gateway.metrics.rescues[CODES[fault]] == 1
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert await settle_spent(world) - before == cost
            status, shown, _ = await world.get("/calls/" + answer.stamp["call_id"])
            assert status == 200
            assert shown["provider"] == answer.stamp["provider"]
            assert [leg["provider"] for leg in shown["attempts"]] == ["0x" + first.key.account.hex()]
            assert shown["why"]["asked"][0]["reason"].startswith(f"{CODES[fault]}: ")
            assert shown["why"]["asked"][1]["reason"] is None
            if fault in ("engine", "stall"):
                assert shown["attempts"][0]["receipt"]["units_out"] == prefix.units_out
            assert shown["charged_nano"] + shown["attempts"][0]["charged_nano"] == cost

    asyncio.run(story())


@pytest.mark.parametrize("fault", FAULTS)
def test_echo_that_loses_its_provider_is_made_again_behind_what_was_shown(tmp_path: Path, fault: str) -> None:
    """A kind that can't go on from a prefix starts again; what was sent isn't sent again, nor charged again."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, **QUICK) as world:
            for index in range(2):
                await world.add_node(index, price=PRICES[index], options={"delay_ms": "20"})
            stop_first(world, FAULTS[fault])
            answer = await stream(world, MODEL)
            assert answer.text == WORDS
            assert (answer.roles, len(answer.ids), answer.finishes) == (1, 1, ["stop"])
            assert answer.raw.count(b"[DONE]") == 1
            usage = answer.last["usage"]
            assert usage["completion_tokens"] == len(WORDS)
            units_in = usage["prompt_tokens"]
            first = next(node for node in world.nodes if node.offer.offer.provider != _account(answer))
            second = next(node for node in world.nodes if node is not first)
            assert second.requests[-1].prefix == b""
            one, two = first.offer.offer, second.offer.offer
            words = len(WORDS.split()) if fault in ("receipt", "hash", "unasked cancel") else 3
            shown = len(" ".join(WORDS.split()[:words])) + (words < len(WORDS.split()))
            cost = call_cost(units_in, shown, one.price_in, one.price_out)
            cost += call_cost(0, len(WORDS) - shown, two.price_in, two.price_out)
            assert answer.stamp["cost_nano"] == cost
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert await settle_spent(world) == cost

    asyncio.run(story())


def _account(answer: Answer) -> bytes:
    return bytes.fromhex(answer.stamp["provider"][2:])


def test_chat_cut_inside_a_character_shows_it_once_and_whole(tmp_path: Path) -> None:
    """What was held back is in no text, and still in the prefix's tokens or made again: the character is right."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, **QUICK) as world:
            script = [*"🦄🦄".encode(), END]
            for index in range(2):
                await add_letters(world, index, script)
            stop_first(world, _set("cut_after", 1))
            answer = await stream(world, LETTERS, temperature=0)
            assert answer.text == "🦄🦄"
            assert answer.last["usage"]["completion_tokens"] == 9

    asyncio.run(story())


def test_stream_that_two_providers_lose_is_ended_by_the_third(tmp_path: Path) -> None:
    """Each leg goes on from all before it, and each is charged once."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, **QUICK) as world:
            for index in range(3):
                await add_letters(world, index)
            left = 2
            for node in world.nodes:
                plain = node.on_call

                def on_call(link: Any, request: Any, *, is_stream: bool, node: Any = node, plain: Any = plain) -> None:
                    nonlocal left
                    if left:
                        left, node.cut_after = left - 1, 4
                    plain(link, request, is_stream=is_stream)

                node.on_call = on_call  # type: ignore[method-assign]
            answer = await stream(world, LETTERS, temperature=0)
            assert answer.text == TEXT
            assert [rescue["reason"] for rescue in answer.stamp["rescues"]] == ["link_lost"] * 2
            assert answer.last["usage"]["completion_tokens"] == len(TEXT.encode()) + 1
            assert await settle_spent(world) == answer.stamp["cost_nano"]

    asyncio.run(story())


def test_stream_that_nobody_can_go_on_with_ends_in_an_error(tmp_path: Path) -> None:
    """The second provider dies as well: an in-band error, finish_reason error, and no [DONE]."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, **QUICK) as world:
            for index in range(2):
                (await add_letters(world, index)).cut_after = 3
            answer = await stream(world, LETTERS, temperature=0)
            assert b"[DONE]" not in answer.raw
            assert answer.finishes == ["error"]
            assert answer.last["error"]["code"] == "provider_lost"
            assert TEXT.startswith(answer.text)

    asyncio.run(story())


def test_answer_that_comes_out_otherwise_ends_in_an_error(tmp_path: Path) -> None:
    """Behind what was shown only the same answer can go on; another one is never spliced in."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, **QUICK) as world:
            stop_first(world, _set("cut_after", 3))
            for node in world.nodes:
                plain = node.service

                class Other:
                    def __init__(self, service: Any) -> None:
                        self.service = service

                    def __getattr__(self, name: str) -> Any:
                        return getattr(self.service, name)

                    async def run(self, request: Any, context: Any) -> Any:
                        count = 0
                        async for chunk in self.service.run(request, context):
                            count += 1
                            is_second = sum(len(node.requests) for node in world.nodes) > 1
                            yield msgspec.structs.replace(chunk, content=b"x") if is_second and count == 2 else chunk

                node.service = Other(plain)  # type: ignore[assignment]
            answer = await stream(world, MODEL)
            assert answer.text == "one two three "
            assert b"[DONE]" not in answer.raw
            assert "another_answer" in answer.last["error"]["message"]
            await until(lambda: world.gateway.settlement.in_flight == 0)
            first, second = sorted(await list_rows(world), key=lambda row: row.created_ms)
            order = world.nodes[0].requests[0].order if world.nodes[0].requests else world.nodes[1].requests[0].order
            assert first.charged_nano == 0
            assert second.charged_nano == await settle_spent(world) <= order.max_cost

    asyncio.run(story())


def test_stream_that_does_not_begin_is_asked_of_another_as_well(tmp_path: Path) -> None:
    """Whoever begins first goes on; the silent one is stopped and costs the key nothing."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, first_byte_s=0.2) as world:
            stop_first(world, lambda node: node.gate.clear())
            answer = await stream(world, MODEL)
            assert answer.text == WORDS
            assert "rescues" not in answer.stamp
            silent = next(node for node in world.nodes if not node.gate.is_set())
            await until(lambda: len(silent.cancelled) == 1)
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert await settle_spent(world) == answer.stamp["cost_nano"]
            meter = world.gateway.settlement.escrow
            assert meter.reserved_nano == 0
            assert world.gateway.metrics.rescues["first_byte"] == 1

    asyncio.run(story())


def test_slow_provider_without_another_is_waited_for(tmp_path: Path) -> None:
    """Nobody else sells it: silence alone ends nothing."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, first_byte_s=0.05, stall_s=0.05) as world:
            await world.add_node(0, options={"delay_ms": "250"})
            answer = await stream(world, MODEL, messages=[{"role": "user", "content": "one two"}])
            assert answer.text == "one two"
            assert answer.finishes == ["stop"]

    asyncio.run(story())


def test_receipt_of_a_lost_leg_that_comes_late_is_paid_and_not_charged_again(tmp_path: Path) -> None:
    """The provider is paid for what it did by its batch; the key has paid for what it received already."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, **QUICK) as world:
            for index in range(2):
                await add_letters(world, index)
            stop_first(world, _set("cut_after", 3))
            answer = await stream(world, LETTERS, temperature=0)
            assert answer.text == TEXT
            spent = await settle_spent(world)
            await until(lambda: bool(world.gateway.settlement.lost))
            (lost,) = world.gateway.settlement.lost.values()
            node = next(node for node in world.nodes if node.cut_after is not None)
            (call,) = node.requests
            order = call.order
            units = (lost.units[0], 3)
            cost = call_cost(*units, order.price_in, order.price_out)
            receipt = Receipt(order.struct_hash(), 0, ZERO32, ZERO32, *units, cost, 1, 2, 4)
            node.waiting[order.lane] = [LeafEntry(order, call.tag, receipt)]
            node.cut_after = None
            node.send_batches(None)
            node.dial(world.running.address.link_url, LIMITS)
            await until(lambda: not world.gateway.settlement.lost)
            assert await settle_spent(world) == spent == answer.stamp["cost_nano"]
            rows = {row.provider: row for row in await list_rows(world)}
            assert rows[node.key.account].cost_nano == cost
            assert rows[node.key.account].charged_nano == 0
            assert world.gateway.settlement.escrow.reserved_nano == 0

    asyncio.run(story())


def test_hundred_streams_that_lose_their_provider_never_overspend_a_key(tmp_path: Path) -> None:
    """Under a tight budget each rescue is reserved before it is sent; what can't be borne ends in an error."""

    async def story() -> None:
        limit = 6_000
        async with open_world(tmp_path, nodes=0, limit_nano=limit, link_limits=LinkLimits(), **QUICK) as world:
            for index in range(3):
                await world.add_node(index, price=PRICES[index % 2], options={"delay_ms": "20"})
            for node in world.nodes[:2]:
                node.engine_breaks_after = 4

            async def ask(number: int) -> bool:
                text = f"{number} b c d e f"  # each its own conversation, so that all providers are asked
                try:
                    answer = await stream(world, MODEL, messages=[{"role": "user", "content": text}])
                except AssertionError:
                    return False  # 402: the budget is gone
                assert text.startswith(answer.text)
                return answer.text == text

            wholes = await asyncio.gather(*(ask(number) for number in range(100)))
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert any(wholes)
            spent = await settle_spent(world)
            assert 0 < spent <= limit
            rows = await list_calls(world.database, limit=1_000)
            assert spent == sum(row.charged_nano or 0 for row in rows)
            assert world.gateway.metrics.rescues["engine_error"] > 0

    asyncio.run(story())


def test_receipt_of_a_replaced_leg_that_comes_after_a_crash_charges_the_key_nothing(tmp_path: Path) -> None:
    """The row of the replaced leg was written before the next order left; the escrow pays, the key has paid."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0, stall_s=1.5, deadline_s=4.0, grace_s=0.1) as world:
            for index in range(2):
                await add_letters(world, index)
            stop_first(world, _set("cut_after", 3))
            answer = await stream(world, LETTERS, temperature=0)
            assert answer.text == TEXT
            node = next(node for node in world.nodes if node.cut_after is not None)
            (call,) = node.requests
            await crash(world)
            order = call.order
            receipt = Receipt(order.struct_hash(), 0, ZERO32, ZERO32, 9, 3, 0, 1, 2, 4)
            receipt = msgspec.structs.replace(receipt, cost=call_cost(9, 3, order.price_in, order.price_out))
            node.waiting[order.lane] = [LeafEntry(order, call.tag, receipt)]
            node.cut_after = None
            node.send_batches(None)
            await world.start_gateway()
            node.dial(world.running.address.link_url, LIMITS)
            await until(lambda: any(lane.state.count for lane in world.gateway.payer.lanes.values()))
            await until(lambda: not world.gateway.recovery.is_waiting)
            rows = {row.provider: row for row in await list_rows(world)}
            late = rows[node.key.account]
            assert (late.cost_nano, late.charged_nano) == (receipt.cost, 0)
            assert world.key is not None
            budget = await load_budget(world.database, world.key.budget_id)
            assert (budget.spent_nano, budget.leased_nano) == (answer.stamp["cost_nano"], 0)

    asyncio.run(story())
