"""services/rpc before real software: anvil and the embedded chain as an operator's node, over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.chains import CHAIN_KINDS, RunningChain, open_chain
from tests.service_world import collect, ignore

from steelyard.services.conformance import find_violations
from steelyard.services.port import Context
from steelyard.services.rpc import RpcService

NAMES = {"embedded": "steelyard-dev", "anvil": "anvil"}


def options(chain: RunningChain) -> dict[str, str]:
    """Both chains answer WebSocket where they answer HTTP."""
    return {"upstream": chain.url, "upstream_ws": chain.url.replace("http", "ws")}


def on_chain(kind: str, story: Callable[[RpcService, RunningChain], Awaitable[None]]) -> None:
    """Run a story on a prepared service before a fresh chain."""

    async def run(chain: RunningChain) -> None:
        service = RpcService(RpcService.describe(NAMES[kind]), options=options(chain))
        await service.prepare(ignore)
        try:
            await story(service, chain)
        finally:
            await service.aclose()

    with open_chain(kind) as chain:
        asyncio.run(run(chain))


def call(method: str, params: Any = None, number: Any = 1) -> dict[str, Any]:
    """One JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or []}


async def ask(service: RpcService, body: Any) -> Any:
    """The decoded answer to a body."""
    result, _ = await collect(service, service.parse("rpc", json.dumps(body).encode()))
    return json.loads(result.content)


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_batch_of_a_real_chain_keeps_order_and_ids(kind: str) -> None:
    """Reads, a revert's error and an unknown method, under doubled ids, as the chain itself says them."""

    async def story(service: RpcService, chain: RunningChain) -> None:
        account = "0x" + chain.keys[0].account.hex()
        answers = await ask(
            service,
            [
                call("eth_chainId", number="a"),
                call("eth_getBalance", [account, "latest"], number="a"),
                call("eth_noSuchThing", number=None),
                call("eth_getBalance", ["0x1", "latest"], number=7),
                call("eth_getBlockByNumber", ["0x0", False], number=8),
            ],
        )
        assert [answer["id"] for answer in answers] == ["a", "a", None, 7, 8]
        assert int(answers[0]["result"], 16) == chain.chain_id
        assert answers[1]["result"] == chain.call("eth_getBalance", account, "latest")
        assert "error" in answers[2]
        assert "error" in answers[3]
        assert answers[4]["result"]["hash"] == chain.call("eth_getBlockByNumber", "0x0", False)["hash"]

    on_chain(kind, story)


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_new_heads_of_a_real_chain_come_one_by_one(kind: str) -> None:
    """Blocks mined after the subscription was taken arrive in order, each once, until the order's bound."""

    async def story(service: RpcService, chain: RunningChain) -> None:
        body = json.dumps({**call("eth_subscribe", ["newHeads"]), "max_messages": 3, "max_s": 30}).encode()
        heads = []
        async for chunk in service.run(service.parse("rpc.subscribe", body), Context()):
            if chunk.detail:
                for _ in range(3):
                    await asyncio.to_thread(chain.call, "evm_mine")
            if chunk.content:
                heads.append(int(json.loads(chunk.content)["number"], 16))
        assert heads == [heads[0], heads[0] + 1, heads[0] + 2]

    on_chain(kind, story)


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_rpc_keeps_to_the_port_on_a_real_chain(kind: str) -> None:
    """The conformance suite with a real node: quotes hold, a pinned answer replays, a subscription can be left."""

    async def story(service: RpcService, chain: RunningChain) -> None:
        heads = {**call("eth_subscribe", ["newHeads"]), "max_s": 1}
        bodies = {
            "rpc": json.dumps(call("eth_getBlockByNumber", ["0x0", True])).encode(),
            "rpc.subscribe": json.dumps(heads).encode(),
        }
        assert not await find_violations(RpcService, None, bodies, name=NAMES[kind], options=options(chain))

    on_chain(kind, story)


@pytest.mark.skipif("anvil" not in CHAIN_KINDS, reason="STEELYARD_TEST_CHAINS leaves anvil out")
def test_pinned_answer_of_one_node_matches_another_and_a_changed_one_does_not() -> None:
    """The same state on two anvils: the checker's own node gives the same values; a seller's other one is found."""

    async def run(first: RunningChain, second: RunningChain) -> None:
        seller = RpcService(RpcService.describe("anvil"), options=options(first))
        checker = RpcService(RpcService.describe("anvil"), options=options(second))
        account = "0x" + first.keys[1].account.hex()
        request = seller.parse("rpc", json.dumps(call("eth_getBalance", [account, "0x0"])).encode())
        try:
            result, _ = await collect(seller, request)
            replayed = await checker.replay(request, result, b"", Context())
            assert [score.is_match for score in checker.compare(result, b"", replayed).scores] == [True]
            content = result.content.replace(b'"result":"0x', b'"result":"0x1')
            lied = msgspec.structs.replace(result, content=content)
            assert [score.is_match for score in checker.compare(lied, b"", replayed).scores] == [False]
        finally:
            await seller.aclose()
            await checker.aclose()

    with open_chain("anvil") as first, open_chain("anvil") as second:
        asyncio.run(run(first, second))
