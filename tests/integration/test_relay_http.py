"""JSON-RPC over HTTP through a real gateway: ids, order, errors, the cache, money, retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway_world import World, open_world
from tests.relay_chain import ToyChain, ToyNode, relay_service

from steelyard.link.port import Failure

PRICE = (1_000_000, 1_000_000)  # a nano a unit


@asynccontextmanager
async def open_relay(folder: Path, *, nodes: int = 1, **options: Any) -> AsyncIterator[tuple[World, list[ToyNode]]]:
    """Give a gateway whose nodes relay one toy chain under the name `eth`."""
    async with open_world(folder, nodes=0, **options) as world:
        chain = ToyChain()
        toys = [ToyNode(chain) for _ in range(nodes)]
        for index, toy in enumerate(toys):
            await world.add_node(index, service=relay_service(toy), price=PRICE)
        yield world, toys


async def post(world: World, path: str, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON (None for an empty body) and headers of a POST to the gateway's root."""
    url = world.base_url.removesuffix("/v1") + path
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {world.secret}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    async with aiohttp.ClientSession() as session, session.post(url, data=raw, headers=sent) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if text else None, {k.lower(): v for k, v in reply.headers.items()}


def call(method: str, params: Any = (), ident: Any = 1) -> dict[str, Any]:
    """Return one request."""
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": list(params)}


BALANCE = call("eth_getBalance", ["0x" + "11" * 20, "latest"])


def test_call_is_answered_paid_and_named(tmp_path: Path) -> None:
    """One request: its id, its result, who made it, at what cost; the key is charged the method's units."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            status, body, headers = await post(world, "/rpc/eth", BALANCE)
            assert (status, body) == (200, {"jsonrpc": "2.0", "id": 1, "result": "0x1"})
            assert headers["x-steelyard-model"] == "eth"
            assert headers["x-steelyard-grade"] == "consensus"
            assert headers["x-steelyard-cost-nano"] == "20"
            shown = (await world.get(f"/calls/{headers['x-steelyard-call']}"))[1]
            assert shown["receipt_id"] == headers["x-steelyard-receipt"]

    asyncio.run(story())


def test_every_form_of_address_reaches_the_chain(tmp_path: Path) -> None:
    """By its id, another name, the header form, and with the key in the path."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            for path, headers in (
                ("/rpc/eth", {}),
                ("/rpc/Ethereum", {}),
                (f"/rpc/eth/{world.secret}", {"authorization": ""}),
                ("/v1", {"target_service_id": "eth"}),
                ("/", {"target_service_id": "mainnet"}),
            ):
                status, body, _ = await post(world, path, BALANCE, **headers)
                assert (status, body["id"]) == (200, 1), path

    asyncio.run(story())


def test_batch_keeps_order_duplicate_ids_and_mixed_errors(tmp_path: Path) -> None:
    """Refused, invalid, cached and reverted items stand where they were asked, in one order for the rest."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            await post(world, "/rpc/eth", call("eth_chainId"))
            batch = [
                call("eth_blockNumber", ident=7),
                call("admin_peers", ident=7),
                7,
                call("eth_chainId", ident="x"),
                call("eth_call", [{}, "latest"], ident=7),
                {"jsonrpc": "2.0", "id": 9},
                {"jsonrpc": "2.0", "method": "eth_gasPrice"},
                call("eth_getBalance", ["0x" + "22" * 20, "latest"], ident=None),
            ]
            status, body, headers = await post(world, "/rpc/eth", batch)
            assert status == 200
            assert [one["id"] for one in body] == [7, 7, None, "x", 7, 9, None]
            assert body[0]["result"] == "0x0"
            assert [one["error"]["code"] for one in body if "error" in one] == [-32601, -32600, -32000, -32600]
            assert body[3]["result"] == "0x1"
            assert toy.asked == ["eth_chainId", "eth_blockNumber", "eth_call", "eth_gasPrice", "eth_getBalance"]
            assert headers["x-steelyard-cache"] == "partial"
            assert headers["x-steelyard-cost-nano"] == str(10 + 26 + 10 + 20)
            assert len((await world.get("/calls"))[1]["data"]) == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    ("body", "code", "ident"),
    [
        (b"", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,', -32700, None),
        (b"[]", -32600, None),
        (b"7", -32600, None),
        (b'{"jsonrpc":"2.0","id":"q"}', -32600, "q"),
        (b'{"jsonrpc":"1.0","id":5,"method":"eth_chainId"}', -32600, 5),
        (b'{"jsonrpc":"2.0","id":6,"method":"debug_setHead","params":[]}', -32601, 6),
        (b'{"jsonrpc":"2.0","id":6,"method":"personal_unlockAccount","params":[]}', -32601, 6),
        (b'{"jsonrpc":"2.0","id":8,"method":"eth_subscribe","params":["newHeads"]}', -32601, 8),
    ],
)
def test_malformed_or_refused_request_is_json_rpcs_error(tmp_path: Path, body: bytes, code: int, ident: Any) -> None:
    """HTTP 200, the spec's code, the id kept, nothing bought."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            status, answer, _ = await post(world, "/rpc/eth", body)
            assert (status, answer["error"]["code"], answer["id"]) == (200, code, ident)
            assert not toy.asked

    asyncio.run(story())


def test_batch_of_refused_items_alone_is_answered_without_an_order(tmp_path: Path) -> None:
    """Every item has its own error, and nothing is bought."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            status, body, headers = await post(world, "/rpc/eth", [call("admin_peers", ident=1), {"id": 1}])
            assert (status, [one["error"]["code"] for one in body]) == (200, [-32601, -32600])
            assert headers["x-steelyard-cost-nano"] == "0"
            assert "x-steelyard-cache" not in headers
            assert not toy.asked

    asyncio.run(story())


def test_cached_answer_costs_nothing_and_says_so(tmp_path: Path) -> None:
    """A second read of what can't change comes from memory, with the new id and the receipt that made it."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            toy.chain.mine(100)
            await post(world, "/rpc/eth", call("eth_blockNumber"))
            old = call("eth_getBlockByNumber", ["0x5", False], ident=1)
            _, first, bought = await post(world, "/rpc/eth", old)
            _, second, known = await post(world, "/rpc/eth", old | {"id": "again"})
            assert second == first | {"id": "again"}
            assert known["x-steelyard-cache"] == "hit"
            assert (known["x-steelyard-cost-nano"], known["x-steelyard-receipt"]) == (
                "0",
                bought["x-steelyard-receipt"],
            )
            assert known["x-steelyard-provider"] == bought["x-steelyard-provider"]
            assert toy.asked.count("eth_getBlockByNumber") == 1
            young = call("eth_getBlockByNumber", ["0x64", False])
            for _ in range(2):
                await post(world, "/rpc/eth", young)
            assert toy.asked.count("eth_getBlockByNumber") == 3
            await post(world, "/rpc/eth", call("eth_getBlockByNumber", ["0x6", False]), x_steelyard_private="true")
            await post(world, "/rpc/eth", call("eth_getBlockByNumber", ["0x6", False]))
            assert toy.asked.count("eth_getBlockByNumber") == 5

    asyncio.run(story())


def test_unknown_chain_is_404_with_the_nearest_and_keeps_the_id(tmp_path: Path) -> None:
    """A typing error is told what it may have meant; a known chain that nobody sells is told what is on sale."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            status, body, _ = await post(world, "/rpc/ethreum", call("eth_chainId", ident=3))
            assert status == 404
            assert body["error"]["data"]["code"] == "chain_not_found"
            assert "eth" in body["error"]["message"]
            status, body, _ = await post(world, "/rpc/solana", call("getSlot", ident=3))
            assert status == 404
            assert "On sale: eth" in body["error"]["message"]

    asyncio.run(story())


def test_refusals_of_the_network_keep_their_status_and_the_id(tmp_path: Path) -> None:
    """401, 402, 413, 429 and 503 carry a JSON-RPC error with the request's id, a batch one for each."""

    async def story() -> None:
        async with open_relay(tmp_path, max_body_bytes=4_096) as (world, _):
            status, body, _ = await post(world, "/rpc/eth", BALANCE, authorization="Bearer sk-steelyard-no")
            assert (status, body["id"], body["error"]["data"]["code"]) == (401, 1, "invalid_api_key")
            poor = await world.new_key("poor", limit_nano=5)
            status, body, _ = await post(world, "/rpc/eth", BALANCE, authorization=f"Bearer {poor}")
            assert (status, body["id"], body["error"]["data"]["code"]) == (402, 1, "budget_exceeded")
            status, body, _ = await post(world, "/rpc/eth", [BALANCE, BALANCE], authorization=f"Bearer {poor}")
            assert (status, [one["id"] for one in body]) == (402, [1, 1])
            status, body, _ = await post(world, "/rpc/eth", b"[" + b" " * 5_000 + b"]")
            assert (status, body["error"]["code"]) == (413, -32005)
            slow = await world.new_key("slow", requests_per_minute=1)
            await post(world, "/rpc/eth", BALANCE, authorization=f"Bearer {slow}")
            status, body, headers = await post(world, "/rpc/eth", BALANCE, authorization=f"Bearer {slow}")
            assert (status, body["id"], body["error"]["code"]) == (429, 1, -32005)
            assert int(headers["retry-after"]) >= 1
            world.nodes[0].failure, world.nodes[0].failures_left = Failure("busy", "full", retry_after_s=1.0), -1
            status, body, _ = await post(world, "/rpc/eth", BALANCE)
            assert (status, body["id"], body["error"]["code"]) == (503, 1, -32002)

    asyncio.run(story())


def test_batch_over_the_limit_is_refused(tmp_path: Path) -> None:
    """The bound is told, and nothing is bought."""

    async def story() -> None:
        async with open_relay(tmp_path, relay_batch_items=3) as (world, (toy,)):
            _, body, _ = await post(world, "/rpc/eth", [BALANCE] * 4)
            assert body["error"]["data"]["code"] == "batch_too_large"
            assert "takes 3" in body["error"]["message"]
            assert not toy.asked

    asyncio.run(story())


def test_failing_provider_is_replaced_before_the_first_byte(tmp_path: Path) -> None:
    """The client sees one answer, and pays one provider."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=3) as (world, _):
            for node in world.nodes[:2]:
                node.failure, node.failures_left = Failure("engine_error", "its node is down"), -1
            for _ in range(6):
                status, _, headers = await post(world, "/rpc/eth", BALANCE)
                assert status == 200
                assert headers["x-steelyard-provider"] == "0x" + world.nodes[2].key.account.hex()

    asyncio.run(story())


def test_provider_whose_answer_has_other_ids_is_not_paid(tmp_path: Path) -> None:
    """Somebody else's answer is a breach, and another provider is asked."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, (liar, _)):

            async def call_wrongly(payload: Any) -> bytes:
                return b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}'

            liar.call = call_wrongly  # type: ignore[method-assign]
            for _ in range(4):
                status, body, headers = await post(world, "/rpc/eth", BALANCE)
                assert (status, body["id"], "result" in body) == (200, 1, True)
                assert headers["x-steelyard-provider"] == "0x" + world.nodes[1].key.account.hex()

    asyncio.run(story())


def test_idempotency_key_gives_the_same_answer_again(tmp_path: Path) -> None:
    """A repeated request is not sent twice."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            first = await post(world, "/rpc/eth", BALANCE, idempotency_key="one")
            again = await post(world, "/rpc/eth", BALANCE, idempotency_key="one")
            assert again[1] == first[1]
            assert again[2]["x-steelyard-replayed"] == "true"
            assert len(toy.asked) == 1

    asyncio.run(story())


def test_get_without_upgrade_is_405(tmp_path: Path) -> None:
    """A browser that opens the address is told how to use it."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            status, _, headers = await world.get("//rpc/eth")
            assert (status, headers["allow"]) == (405, "POST")

    asyncio.run(story())
