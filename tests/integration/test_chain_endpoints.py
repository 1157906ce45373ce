"""The client against endpoints that refuse, hang, break off or talk nonsense, and a chain that is killed meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web
from tests.chains import open_chain

from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender, SendPolicy
from steelyard.errors import ChainError, ChainUnreachable, ConfigError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def open_endpoint(handler: Handler) -> AsyncIterator[str]:
    """Serve one handler on a free port and return its URL."""
    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def closed_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def good(request: web.Request) -> web.StreamResponse:
    call = await request.json()
    return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": "0x10"})


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def garbage(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>captive portal</html>", content_type="text/html")


async def overloaded(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=429, text="slow down")


async def broken(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=502, text="bad gateway")


async def redirect(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"jsonrpc"')
    assert request.transport is not None
    request.transport.close()
    return response


@pytest.mark.parametrize("bad", [hang, garbage, overloaded, broken, redirect, cut])
def test_call_bad_endpoint_first_is_answered_by_the_second(bad: Handler) -> None:
    """Whatever is wrong with the first endpoint, a read is answered by the second."""

    async def story() -> None:
        async with (
            open_endpoint(bad) as first,
            open_endpoint(good) as second,
            ChainRpc([first, second], timeout_s=0.3, backoff_s=0.01) as rpc,
        ):
            assert await rpc.block_number() == 16

    asyncio.run(story())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (hang, "no answer within 0.3 s"),
        (garbage, "isn't JSON-RPC"),
        (overloaded, "HTTP 429"),
        (broken, "HTTP 502"),
        (redirect, "HTTP 302"),
    ],
)
def test_call_only_bad_endpoint_says_what_is_wrong(bad: Handler, words: str) -> None:
    """Where no other endpoint is left, the error says what this one did."""

    async def story() -> None:
        async with open_endpoint(bad) as only, ChainRpc([only], timeout_s=0.3, rounds=1) as rpc:
            with pytest.raises(ChainUnreachable, match=words):
                await rpc.block_number()

    asyncio.run(story())


def test_call_nobody_listening_says_can_not_connect() -> None:
    """A closed port is told as such, with the address."""

    async def story() -> None:
        async with ChainRpc([closed_url()], rounds=1) as rpc:
            with pytest.raises(ChainUnreachable, match="can't connect") as caught:
                await rpc.block_number()
            assert "127.0.0.1" in caught.value.message

    asyncio.run(story())


def test_call_oversized_answer_is_refused() -> None:
    """An endless answer doesn't fill the memory."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(80):
            await response.write(b" " * 1024 * 1024)
        return response

    async def story() -> None:
        async with open_endpoint(endless) as only, ChainRpc([only], rounds=1) as rpc:
            with pytest.raises(ChainError, match="ask for less"):
                await rpc.block_number()

    asyncio.run(story())


def test_call_real_chain_of_another_id_is_a_config_error() -> None:
    """An endpoint of another chain stops the start with one line that names both chains."""

    async def story(url: str) -> None:
        async with ChainRpc([url], chain_id=1, rounds=1) as rpc:
            with pytest.raises(ConfigError, match=r"serves chain 31415, not 1: correct the rpc url"):
                await rpc.block_number()

    with open_chain("embedded") as chain:
        asyncio.run(story(chain.url))


def test_send_through_a_proxy_that_loses_answers_lands_once() -> None:
    """A proxy that delivers every broadcast and drops every other answer: each transfer is mined once."""

    async def story(url: str, client: ClientSession) -> None:
        broadcasts = 0

        async def lossy(request: web.Request) -> web.StreamResponse:
            nonlocal broadcasts
            body = await request.read()
            async with client.post(url, data=body, headers={"Content-Type": "application/json"}) as reply:
                answer = await reply.read()
            if b"eth_sendRawTransaction" in body:
                broadcasts += 1
                if broadcasts % 2:
                    assert request.transport is not None
                    request.transport.close()
            return web.Response(body=answer, content_type="application/json")

        to = b"\x78" * 20
        async with open_endpoint(lossy) as proxy, ChainRpc([proxy], rounds=1) as rpc, ChainRpc([url]) as direct:
            sender = Sender(rpc, chain.keys[0])
            await asyncio.gather(*[sender.send(to, value_wei=1) for _ in range(10)])
            assert await direct.balance(to) == 10
            assert await direct.nonce(sender.account) == 10
        assert broadcasts == 10  # a receipt says that the dropped ones arrived: nothing is sent twice

    async def with_client(url: str) -> None:
        async with ClientSession() as client:
            await story(url, client)

    with open_chain("embedded") as chain:
        asyncio.run(with_client(chain.url))


def test_send_while_the_chain_is_killed_lands_exactly_once() -> None:
    """Transfers under way at kill -9 land once after the restart: the sender waits, asks, and sends the same bytes."""

    async def story() -> None:
        to = b"\x79" * 20
        policy = SendPolicy(stall_s=0.3, max_poll_s=0.1)
        async with ChainRpc([chain.url], timeout_s=2.0, rounds=12, backoff_s=0.02) as rpc:
            sender = Sender(rpc, chain.keys[0], policy=policy)
            tasks = [asyncio.create_task(sender.send(to, value_wei=1, gas=21_000)) for _ in range(20)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            chain.kill()
            await asyncio.to_thread(chain.restart)
            await asyncio.gather(*tasks)
            assert await rpc.balance(to) == 20
            assert await rpc.nonce(sender.account) == 20

    with open_chain("embedded") as chain:
        asyncio.run(story())
