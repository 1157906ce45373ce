"""JSON-RPC over WebSockets through a real gateway: requests, subscriptions, providers that die or lie, slow clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway_world import PRICE_IN, World, open_world, until
from tests.relay_chain import ToyChain, ToyNode, relay_service

from steelyard.gateway import relay_feed, relay_socket
from steelyard.storage.keys import revoke_key

PRICE = (PRICE_IN, PRICE_IN)


@asynccontextmanager
async def open_relay(folder: Path, *, nodes: int = 1, **options: Any) -> AsyncIterator[tuple[World, list[ToyNode]]]:
    """Give a gateway whose nodes relay one toy chain under the name `eth`."""
    async with open_world(folder, nodes=0, **options) as world:
        chain = ToyChain()
        toys = [ToyNode(chain) for _ in range(nodes)]
        for index, toy in enumerate(toys):
            await world.add_node(index, service=relay_service(toy), price=PRICE)
        yield world, toys


class Client:
    """A client's socket: `ask` returns the answer with its id, notifications gather in `heard`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self._answers: dict[Any, asyncio.Future[Any]] = {}
        self._count = 0
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            body = json.loads(message.data)
            if isinstance(body, dict) and "method" in body:
                self.heard.append(body["params"])
            else:
                self._answers.setdefault(_ident(body), asyncio.get_running_loop().create_future()).set_result(body)

    async def send(self, body: Any) -> Any:
        """Send a body and return its answer."""
        future = self._answers.setdefault(_ident(body), asyncio.get_running_loop().create_future())
        await self.socket.send_str(json.dumps(body))
        return await asyncio.wait_for(future, 10)

    async def ask(self, method: str, *params: Any) -> Any:
        """Return the answer to one request."""
        self._count += 1
        return await self.send({"jsonrpc": "2.0", "id": self._count, "method": method, "params": list(params)})

    def heads(self, subscription: str) -> list[int]:
        """Return the heights that a subscription told."""
        return [int(one["result"]["number"], 16) for one in self.heard if one["subscription"] == subscription]


def _ident(body: Any) -> Any:
    return body.get("id") if isinstance(body, dict) else tuple(one.get("id") for one in body)


@asynccontextmanager
async def open_socket(world: World, path: str = "/rpc/eth", **headers: str) -> AsyncIterator[Client]:
    """Connect a client with the world's key."""
    url = world.base_url.removesuffix("/v1").replace("http", "ws") + path
    sent = {"authorization": f"Bearer {world.secret}"} | headers
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=sent) as socket:
        client = Client(socket)
        try:
            yield client
        finally:
            client.reader.cancel()
            with suppress(asyncio.CancelledError):
                await client.reader


def serving(toys: list[ToyNode]) -> int:
    """Return the one provider that has a subscriber."""
    (index,) = [index for index, toy in enumerate(toys) if toy.subscribers]
    return index


def test_requests_over_a_socket_are_ordinary_orders(tmp_path: Path) -> None:
    """Single, batch, refused and malformed: each answered with its own id, and paid as over HTTP."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _), open_socket(world) as client:
            assert (await client.ask("eth_blockNumber"))["result"] == "0x0"
            assert (await client.ask("admin_peers"))["error"]["code"] == -32601
            batch = [{"jsonrpc": "2.0", "id": ident, "method": "eth_chainId", "params": []} for ident in ("a", "b")]
            assert [one["result"] for one in await client.send(batch)] == ["0x1", "0x1"]
            await client.socket.send_str("{nonsense")
            await until(lambda: None in client._answers)
            assert client._answers[None].result()["error"]["code"] == -32700
            assert sum(call["cost_nano"] for call in (await world.get("/calls"))[1]["data"]) == 10 + 2

    asyncio.run(story())


def test_socket_takes_the_key_in_its_path(tmp_path: Path) -> None:
    """As wallets need it; a wrong key or chain is refused before the socket opens."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            async with open_socket(world, f"/rpc/eth/{world.secret}", authorization="") as client:
                assert (await client.ask("eth_chainId"))["result"] == "0x1"
            for path, status in (("/rpc/eth/sk-steelyard-wrong", 401), ("/rpc/ethreum", 404), ("/other", 404)):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    async with open_socket(world, path):
                        pass
                assert refused.value.status == status

    asyncio.run(story())


def test_subscription_brings_heads_and_ends_when_asked(tmp_path: Path) -> None:
    """An id of ours, each head once, `true` at the end; what was received is paid."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)), open_socket(world) as client:
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            assert ident.startswith("0x")
            assert len(ident) == 34
            toy.chain.mine(3)
            await until(lambda: client.heads(ident) == [1, 2, 3])
            assert (await client.ask("eth_unsubscribe", ident))["result"] is True
            assert (await client.ask("eth_unsubscribe", ident))["result"] is False
            await until(lambda: not toy.subscribers)
            toy.chain.mine()
            assert (await client.ask("eth_blockNumber"))["result"] == "0x4"
            assert client.heads(ident) == [1, 2, 3]
            await until(lambda: world.gateway.settlement.in_flight == 0)
            costs = sorted(call["cost_nano"] for call in (await world.get("/calls"))[1]["data"])
            assert costs == [10, 20 + 3 * 40]

    asyncio.run(story())


def test_subscription_goes_on_elsewhere_when_its_provider_dies(tmp_path: Path) -> None:
    """The same id, no head twice, none missing: those of the pause are fetched by number."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=3) as (world, toys), open_socket(world) as client:
            chain = toys[0].chain
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            for round_ in range(2):
                chain.mine(2)
                await until(lambda: client.heads(ident) == list(range(1, chain.height + 1)))
                index = serving(toys)
                await world.nodes[index].kill()
                toys[index].subscribers = 0
                chain.mine(3)  # nobody listens
                await until(lambda: client.heads(ident) == list(range(1, chain.height + 1)))
                assert round_ in (0, 1)
            chain.mine(2)
            await until(lambda: client.heads(ident) == list(range(1, chain.height + 1)))
            assert len({one["result"]["hash"] for one in client.heard}) == len(client.heard)

    asyncio.run(story())


def test_renewal_at_the_limit_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders of eight messages bring forty heads, each once, under one id."""
    monkeypatch.setattr(relay_feed, "ORDER_MESSAGES", 8)

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, toys), open_socket(world) as client:
            chain = toys[0].chain
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            for _ in range(40):
                chain.mine()
                await asyncio.sleep(0.01)
            await until(lambda: client.heads(ident) == list(range(1, 41)))
            orders = [r for node in world.nodes for r in node.requests if r.api == "rpc.subscribe"]
            assert len(orders) >= 5

    asyncio.run(story())


def test_subscription_fits_what_the_key_can_pay(tmp_path: Path) -> None:
    """A key that can't pay 256 messages gets shorter orders; one that can't pay 16 is told what is missing."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            key = await world.new_key("small", limit_nano=20 + 40 * 40)
            async with open_socket(world, authorization=f"Bearer {key}") as client:
                ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
                toy.chain.mine(3)
                await until(lambda: client.heads(ident) == [1, 2, 3])
            key = await world.new_key("poor", limit_nano=20 + 15 * 40)
            async with open_socket(world, authorization=f"Bearer {key}") as client:
                error = (await client.ask("eth_subscribe", "newHeads"))["error"]
                assert error["data"]["code"] == "budget_exceeded"
                assert "can cost up to 660 nano: ask for less at once" in error["message"]

    asyncio.run(story())


def test_renewal_of_other_subscriptions_brings_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two orders overlap, each message is handed on once."""
    monkeypatch.setattr(relay_feed, "ORDER_MESSAGES", 8)

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, toys), open_socket(world) as client:
            chain = toys[0].chain
            await client.ask("eth_subscribe", "newPendingTransactions")
            for _ in range(40):
                chain.mine()
                await asyncio.sleep(0.02)
            await until(lambda: len(client.heard) >= 40)
            told = [one["result"] for one in client.heard]
            assert told == [block["hash"] for block in chain.blocks[1:]]

    asyncio.run(story())


def test_reorganisation_is_passed_on_once(tmp_path: Path) -> None:
    """New blocks at old heights come as the node tells them."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)), open_socket(world) as client:
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            toy.chain.mine(4)
            toy.chain.reorganise(2)
            await until(lambda: client.heads(ident) == [1, 2, 3, 4, 3, 4, 5])

    asyncio.run(story())


def test_reorganisation_while_a_provider_dies_is_followed_from_the_fork(tmp_path: Path) -> None:
    """The next provider's chain left ours two blocks ago: its blocks come from there on."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, toys), open_socket(world) as client:
            chain = toys[0].chain
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            chain.mine(6)
            await until(lambda: client.heads(ident)[-1:] == [6])
            index = serving(toys)
            await world.nodes[index].kill()
            chain.reorganise(2)
            await until(lambda: client.heads(ident) == [1, 2, 3, 4, 5, 6, 5, 6, 7])
            parents = [one["result"]["parentHash"] for one in client.heard[6:]]
            assert parents[1:] == [one["result"]["hash"] for one in client.heard[6:-1]]

    asyncio.run(story())


def test_provider_that_lies_about_heights_is_passed_over(tmp_path: Path) -> None:
    """A head whose past nobody has is not shown; another provider goes on."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=3) as (world, toys), open_socket(world) as client:
            chain = toys[0].chain
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            chain.mine(2)
            await until(lambda: client.heads(ident) == [1, 2])
            liar = serving(toys)
            toys[liar].lie = lambda head: head | {"number": hex(int(head["number"], 16) + 100), "hash": "0xlie"}
            chain.mine()
            await until(lambda: client.heads(ident) == [1, 2, 3], 20.0)
            assert serving(toys) != liar
            chain.mine()
            await until(lambda: client.heads(ident) == [1, 2, 3, 4])

    asyncio.run(story())


def test_provider_that_falls_silent_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that it kept back come from another one."""
    monkeypatch.setattr("steelyard.gateway.relay_subscriptions.SHORTEST_SILENCE_S", 0.3)
    monkeypatch.setattr("steelyard.gateway.relay_subscriptions.SILENT_BLOCKS", 0)

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, toys), open_socket(world) as client:
            chain = toys[0].chain
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            chain.mine()
            await until(lambda: client.heads(ident) == [1])
            silent = serving(toys)
            toys[silent].is_mute = True
            chain.mine(2)
            await until(lambda: client.heads(ident) == [1, 2, 3])
            await until(lambda: toys[1 - silent].subscribers == 1)
            chain.mine()
            await until(lambda: client.heads(ident) == [1, 2, 3, 4])

    asyncio.run(story())


def test_bounds_of_a_socket_each_have_their_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriptions, requests at once, messages a minute: told apart, with the id, and the socket stays open."""
    monkeypatch.setattr(relay_socket, "MAX_REQUESTS", 2)

    async def story() -> None:
        options = {"relay_subscriptions": 1, "relay_messages_per_minute": 9}
        async with open_relay(tmp_path, **options) as (world, (toy,)), open_socket(world) as client:
            assert "result" in await client.ask("eth_subscribe", "newHeads")
            refused = await client.ask("eth_subscribe", "newHeads")
            assert (refused["error"]["code"], refused["error"]["data"]["code"]) == (-32005, "too_many_subscriptions")
            toy.gate.clear()
            waiting = [asyncio.create_task(client.ask("eth_blockNumber")) for _ in range(2)]
            await until(lambda: len(world.nodes[0].requests) == 3)
            refused = await client.ask("eth_blockNumber")
            assert refused["error"]["data"]["code"] == "too_many_requests"
            toy.gate.set()
            await asyncio.gather(*waiting)
            codes = [(await client.ask("eth_chainId")).get("error", {}).get("data", {}).get("code") for _ in range(6)]
            assert codes == [None] * 4 + ["socket_rate_exceeded"] * 2

    asyncio.run(story())


def test_message_over_the_limit_closes_the_socket(tmp_path: Path) -> None:
    """1009, as WebSockets say it."""

    async def story() -> None:
        async with open_relay(tmp_path, max_body_bytes=2_048) as (world, _), open_socket(world) as client:
            await client.socket.send_str(" " * 3_000)
            await asyncio.wait_for(client.reader, 10)
            assert client.socket.close_code == 1009

    asyncio.run(story())


def test_slow_client_is_dropped_with_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not read is cut off at a bound, told why, and its subscription ends."""
    monkeypatch.setattr(relay_socket, "OUTBOX_BYTES", 100_000)

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            pad = {"extraData": "0x" + "00" * 20_000}
            toy.lie = lambda head: head | pad
            url = world.base_url.removesuffix("/v1").replace("http", "ws") + f"/rpc/eth/{world.secret}"
            async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
                await socket.send_str('{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}')
                await socket.receive()
                transport = socket.get_extra_info("socket")
                assert transport is not None
                socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
                for _ in range(400):
                    toy.chain.mine()
                    await asyncio.sleep(0.001)
                await until(lambda: not toy.subscribers)
                socket._response.connection.transport.resume_reading()  # type: ignore[union-attr]
                while (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.TEXT:
                    pass
                assert socket.close_code == relay_socket.SLOW_CLIENT
            await until(lambda: world.gateway.fronts.sockets.count == 0)

    asyncio.run(story())


def test_revoked_key_closes_the_socket(tmp_path: Path) -> None:
    """Within about a second of the next head, with a code of its own."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)), open_socket(world) as client:
            await client.ask("eth_subscribe", "newHeads")
            assert world.key is not None
            await revoke_key(world.database, world.key.key_id, now_ms=1)
            for _ in range(30):
                toy.chain.mine()
                await asyncio.sleep(0.1)
                if client.reader.done():
                    break
            assert client.socket.close_code == relay_socket.KEY_REFUSED
            await until(lambda: not toy.subscribers)

    asyncio.run(story())


def test_subscription_that_nobody_serves_closes_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better a closed socket than one that is silent for ever."""
    monkeypatch.setattr(relay_feed, "REPLAY_S", 0.5)

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _), open_socket(world) as client:
            await client.ask("eth_subscribe", "newHeads")
            await world.nodes[0].kill()
            await asyncio.wait_for(client.reader, 15)
            assert client.socket.close_code == relay_socket.FEED_LOST

    asyncio.run(story())


def test_client_that_goes_takes_its_orders_along(tmp_path: Path) -> None:
    """Requests and subscriptions are cancelled, what came is settled, nothing is left."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)):
            async with open_socket(world) as client:
                await client.ask("eth_subscribe", "newHeads")
                toy.gate.clear()
                await client.socket.send_str('{"jsonrpc":"2.0","id":9,"method":"eth_gasPrice"}')
                await until(lambda: len(world.nodes[0].requests) == 2)
            await until(lambda: world.gateway.settlement.in_flight == 0)
            await until(lambda: not toy.subscribers)
            assert world.gateway.fronts.sockets.count == 0
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert not {name for name in names if name.startswith("relay-")}

    asyncio.run(story())
