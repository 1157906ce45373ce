"""Bad input: every refusal in OpenAI's shape, with a stable code, the offending value and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from tests.gateway_world import MODEL, open_world, provider_key, until

from steelyard.gateway.chain_view import CourtRecord
from steelyard.verification.parameters import SHIPPED

CHAT = "/chat/completions"


def _chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}


def test_bad_bodies_are_told_what_is_wrong(tmp_path: Path) -> None:
    """Malformed, missing, wrong or out of range: 400 that names the field."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            for body, code, param in (
                (b"", "invalid_json", None),
                (b"{", "invalid_json", None),
                (b"\xff\xfe", "invalid_json", None),
                (b"[1]", "invalid_json", None),
                ({}, "invalid_request", "model"),
                ({"model": 7}, "invalid_request", "model"),
                (_chat(temperature=3), None, "temperature"),
                (_chat(max_tokens=-1), None, "max_tokens"),
                (_chat(max_tokens="many"), None, "max_tokens"),
                (_chat(messages="hi"), None, "messages"),
                (_chat(n=2), None, "n"),
                (_chat(tools=[{"type": "function"}]), None, "tools"),
                (_chat(nonsense=1), None, "nonsense"),
            ):
                status, reply, _ = await world.post(CHAT, body)
                assert (status, reply["error"]["param"]) == (400, param), body
                assert set(reply["error"]) == {"message", "type", "param", "code"}
                assert reply["error"]["type"] == "invalid_request_error"
                assert code is None or reply["error"]["code"] == code
                assert len(reply["error"]["message"]) > 15

    asyncio.run(story())


def test_unknown_model_lists_the_nearest(tmp_path: Path) -> None:
    """404 `model_not_found`, and the stock client raises NotFoundError."""

    async def story() -> None:
        async with open_world(tmp_path) as world, world.client() as client:
            with pytest.raises(openai.NotFoundError) as raised:
                await client.chat.completions.create(model="ecko-1", messages=[{"role": "user", "content": "x"}])
            assert raised.value.code == "model_not_found"
            assert MODEL in raised.value.message
            assert "ecko-1" in raised.value.message
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("ecko-1")

    asyncio.run(story())


def test_body_over_the_limit_is_413_declared_or_chunked(tmp_path: Path) -> None:
    """By Content-Length before it is read, by what came when there is none."""

    async def story() -> None:
        async with open_world(tmp_path, max_body_bytes=10_000) as world:
            status, reply, _ = await world.post(CHAT, b"x" * 10_001)
            assert (status, reply["error"]["code"]) == (413, "request_too_large")

            async def chunks() -> Any:
                for _ in range(30):
                    yield b"y" * 1000

            headers = {"authorization": f"Bearer {world.secret}"}
            async with (
                aiohttp.ClientSession() as session,
                session.post(world.base_url + CHAT, data=chunks(), headers=headers) as answer,
            ):
                assert answer.status == 413
                assert "10000" in (await answer.json())["error"]["message"]
            assert (await world.ask()).choices[0].message.content == "hello there"

    asyncio.run(story())


def test_keys_that_are_missing_or_wrong_are_401(tmp_path: Path) -> None:
    """The stock client raises AuthenticationError; the key itself is never repeated."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            for header, code in (
                ("", "missing_api_key"),
                ("Basic abc", "invalid_api_key"),
                ("Bearer sk-other-thing-entirely", "invalid_api_key"),
                ("Bearer sk-steelyard-" + "A" * 43, "invalid_api_key"),
            ):
                status, reply, _ = await world.post(CHAT, _chat(), authorization=header)
                assert (status, reply["error"]["code"]) == (401, code)
                assert "entirely" not in reply["error"]["message"]
                assert "AAAAAAAA" not in reply["error"]["message"]
            async with world.client(api_key="sk-steelyard-nobody") as client:
                with pytest.raises(openai.AuthenticationError):
                    await client.models.list()

    asyncio.run(story())


def test_routes_and_methods_that_are_not_there_answer_in_shape(tmp_path: Path) -> None:
    """404 for a path, 405 with Allow for a method."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            status, reply, _ = await world.get("/nothing")
            assert (status, reply["error"]["code"]) == (404, "unknown_url")
            status, reply, headers = await world.get(CHAT)
            assert (status, reply["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "POST")
            status, reply, headers = await world.post("/models", {})
            assert (status, reply["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "GET")

    asyncio.run(story())


def test_no_provider_is_503_with_the_reason_of_each(tmp_path: Path) -> None:
    """Retry-After, and why, per provider; a service that is registered is unavailable, not unknown."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            world.nodes[0].failure = world.nodes[1].failure = _failure("credit_window")
            world.nodes[0].failures_left = world.nodes[1].failures_left = -1
            status, reply, headers = await world.post(CHAT, _chat())
            assert (status, reply["error"]["code"], reply["error"]["type"]) == (503, "no_provider", "server_error")
            assert int(headers["retry-after"]) >= 1
            for node in world.nodes:
                assert f"0x{node.key.account.hex()}: credit_window" in reply["error"]["message"]
            world.build_node(7, model="echo-of-nobody")
            status, reply, _ = await world.post(CHAT, _chat(model="echo-of-nobody"))
            assert (status, reply["error"]["code"]) == (503, "no_provider")

    asyncio.run(story())


def test_seller_that_loses_its_stake_or_offer_gets_no_more_calls(tmp_path: Path) -> None:
    """The chain is watched: what is not on record any more is not asked."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=1) as world:
            await world.ask()
            world.chain.active.clear()
            await until(lambda: world.gateway.catalogue.listings[MODEL].sellers[0].refusal != "")
            status, reply, _ = await world.post(CHAT, _chat())
            assert status == 503
            assert "stake_inactive" in reply["error"]["message"]
            world.chain.active.add(provider_key(0).account)
            await until(lambda: world.gateway.catalogue.listings[MODEL].sellers[0].refusal == "")
            await world.ask()

    asyncio.run(story())


def test_convicted_seller_gets_no_more_calls_and_a_challenged_one_only_where_it_is_alone(tmp_path: Path) -> None:
    """What the court has on a provider steers every call; an open case alone refuses no client."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            await world.ask()
            first, second = (provider_key(index).account for index in range(2))
            sellers = {seller.link.provider: seller for seller in world.gateway.catalogue.listings[MODEL].sellers}
            world.chain.court_records[first] = CourtRecord(open_cases=1)
            await until(lambda: sellers[first].is_challenged)
            for _ in range(8):
                _, _, headers = await world.post(CHAT, _chat())
                assert headers["x-steelyard-provider"] == f"0x{second.hex()}"
            world.chain.court_records |= {first: CourtRecord(is_convicted=True), second: CourtRecord(open_cases=1)}
            await until(lambda: sellers[first].refusal == "convicted" and sellers[second].is_challenged)
            await world.ask()
            world.chain.court_records[second] = CourtRecord(is_convicted=True)
            await until(lambda: sellers[second].refusal != "")
            status, reply, _ = await world.post(CHAT, _chat())
            assert (status, reply["error"]["code"]) == (503, "no_provider")
            assert "convicted" in reply["error"]["message"]

    asyncio.run(story())


def test_order_above_what_stakes_allow_goes_to_who_staked_more_or_is_400(tmp_path: Path) -> None:
    """The larger stake gets the larger orders; what nobody's stake covers is refused with both numbers, unsent."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            small, large = (provider_key(index).account for index in range(2))
            sellers = {seller.link.provider: seller for seller in world.gateway.catalogue.listings[MODEL].sellers}
            world.chain.stakes = {small: 20 * SHIPPED.stake_floor_orders, large: 1_000 * SHIPPED.stake_floor_orders}
            await until(lambda: (sellers[small].largest_nano, sellers[large].largest_nano) == (20, 1_000))
            for _ in range(8):
                _, _, headers = await world.post(CHAT, _chat(messages=[{"role": "user", "content": "x" * 100}]))
                assert headers["x-steelyard-provider"] == f"0x{large.hex()}"
            calls = [len(node.requests) for node in world.nodes]
            status, reply, _ = await world.post(CHAT, _chat(messages=[{"role": "user", "content": "x" * 2_000}]))
            assert (status, reply["error"]["code"]) == (400, "order_too_large")
            assert "up to 1000 nano" in reply["error"]["message"]
            assert [len(node.requests) for node in world.nodes] == calls
            world.nodes[1].failure, world.nodes[1].failures_left = _failure("busy"), -1
            status, reply, _ = await world.post(CHAT, _chat(messages=[{"role": "user", "content": "x" * 100}]))
            assert (status, reply["error"]["code"]) == (503, "no_provider")
            assert f"0x{small.hex()}: order_too_large (its stake allows 20 nano)" in reply["error"]["message"]

    asyncio.run(story())


def test_empty_escrow_is_402_with_the_deposit_address(tmp_path: Path) -> None:
    """`insufficient_funds` names what is left and where to send more; a deposit mends it."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            world.chain.deposit_nano = 10
            await until(lambda: world.gateway.watch.sight.limit_nano == 10)
            status, reply, _ = await world.post(CHAT, _chat(messages=[{"role": "user", "content": "x" * 500}]))
            assert (status, reply["error"]["code"], reply["error"]["type"]) == (
                402,
                "insufficient_funds",
                "insufficient_quota",
            )
            assert "0x" + "04" * 20 in reply["error"]["message"]
            assert "10 nano" in reply["error"]["message"]
            world.chain.deposit_nano = 10**9
            await until(lambda: world.gateway.watch.sight.limit_nano == 10**9)
            await world.ask()

    asyncio.run(story())


def test_browsers_are_let_in_and_told_the_headers(tmp_path: Path) -> None:
    """A preflight, and the headers that a page may read."""

    async def story() -> None:
        async with open_world(tmp_path) as world, aiohttp.ClientSession() as session:
            asked = {
                "origin": "http://page.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type",
            }
            async with session.options(world.base_url + CHAT, headers=asked) as reply:
                assert reply.status == 204
                assert reply.headers["access-control-allow-origin"] == "*"
                assert "authorization" in reply.headers["access-control-allow-headers"]
            status, _, headers = await world.post(CHAT, _chat(), origin="http://page.example")
            assert status == 200
            assert headers["access-control-allow-origin"] == "*"
            assert "x-steelyard-receipt" in headers["access-control-expose-headers"]

    asyncio.run(story())


def _failure(code: str) -> Any:
    from steelyard.link.port import Failure

    return Failure(code, "the test says so", True, 1.0)
