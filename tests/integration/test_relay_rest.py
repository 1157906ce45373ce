"""Plain HTTP through a real gateway and the real kind `rest`, before an operator's server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from tests.gateway_world import World, open_world

from steelyard.services.rest import RestService


async def _echo(request: web.Request) -> web.Response:
    said = {
        "method": request.method,
        "path": request.raw_path,
        "body": await request.text(),
        "headers": sorted(name.lower() for name in request.headers),
        "type": request.headers.get("content-type", ""),
    }
    return web.json_response(said, status=201 if request.method == "POST" else 200)


async def _page(request: web.Request) -> web.Response:
    return web.Response(text="<script>alert(1)</script>", content_type="text/html", headers={"set-cookie": "a=b"})


async def _status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["status"]))


@asynccontextmanager
async def open_weather(folder: Path, name: str = "weather", chain: str = "", **options: Any) -> AsyncIterator[World]:
    """Give a gateway that sells `weather`, an operator's own server, or such a server of a chain."""
    app = web.Application()
    app.router.add_get("/base/page", _page)
    app.router.add_get("/base/status/{status}", _status)
    app.router.add_route("*", "/{rest:.*}", _echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    manifest = RestService.describe(name, chain=chain)
    service = RestService(manifest, options={"upstream": f"http://127.0.0.1:{port}/base"})
    try:
        async with open_world(folder, nodes=0, **options) as world:
            await world.add_node(0, service=service)
            yield world
    finally:
        await service.aclose()
        await runner.cleanup()


async def ask(world: World, method: str, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, bytes]:
    """Return the reply to a request, and its body."""
    url = world.base_url.removesuffix("/v1") + "/rest/" + path
    headers = {"authorization": f"Bearer {world.secret}", "x-own": "secret", "cookie": "c=d"} | options.pop(
        "headers", {}
    )
    async with aiohttp.ClientSession() as session:
        reply = await session.request(method, aiohttp.client.URL(url, encoded=True), headers=headers, **options)
        return reply, await reply.read()


def test_request_reaches_the_upstream_with_nothing_but_itself(tmp_path: Path) -> None:
    """Method, escaped path, query, body and type arrive; key, cookies and other headers don't."""

    async def story() -> None:
        async with open_weather(tmp_path) as world:
            reply, body = await ask(
                world, "POST", "weather/a%20b/c?d=%2F&e=1", data=b"{}", headers={"content-type": "application/json"}
            )
            said = await reply.json()
            assert reply.status == 201
            assert (said["method"], said["path"], said["body"]) == ("POST", "/base/a%20b/c?d=%2F&e=1", "{}")
            assert said["type"] == "application/json"
            assert not {"authorization", "x-own", "cookie"} & set(said["headers"])
            assert reply.headers["x-steelyard-model"] == "weather"
            assert int(reply.headers["x-steelyard-cost-nano"]) > 0
            assert body.startswith(b"{")

    asyncio.run(story())


def test_answer_has_the_upstreams_status_and_cannot_run(tmp_path: Path) -> None:
    """A stranger's page comes as data: no cookie, no script, no guessed type; 204 and HEAD have no body."""

    async def story() -> None:
        async with open_weather(tmp_path) as world:
            reply, body = await ask(world, "GET", "weather/page")
            assert (reply.status, body) == (200, b"<script>alert(1)</script>")
            assert reply.headers["content-type"].startswith("text/html")
            assert reply.headers["content-security-policy"].startswith("sandbox")
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert "set-cookie" not in reply.headers
            for method, path, status in (("GET", "weather/status/204", 204), ("HEAD", "weather/now", 200)):
                reply, body = await ask(world, method, path)
                assert (reply.status, body) == (status, b"")
                assert ("content-length" in reply.headers) == (status != 204)
            assert (await ask(world, "GET", "weather/status/404"))[0].status == 404

    asyncio.run(story())


def test_bad_request_is_refused_in_the_gateways_shape(tmp_path: Path) -> None:
    """Unknown service, method or key, and a path that would leave its prefix."""

    async def story() -> None:
        async with open_weather(tmp_path) as world:
            for method, path, status in (
                ("GET", "wether/now", 404),
                ("GET", "weather/%2e%2e/admin", 400),
                ("TRACE", "weather/now", 400),
            ):
                reply, _ = await ask(world, method, path)
                assert reply.status == status, path
                assert (await reply.json())["error"]["message"]
            async with aiohttp.ClientSession() as session:
                url = world.base_url.removesuffix("/v1") + "/rpc/weather"
                refused = await session.post(url, json={}, headers={"authorization": f"Bearer {world.secret}"})
                assert (refused.status, "/rest/weather" in await refused.text()) == (404, True)
            reply, _ = await ask(world, "GET", "weather/now", headers={"authorization": ""})
            assert reply.status == 401

    asyncio.run(story())


def test_chains_rest_api_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    """What Cosmos's clients ask of a node's REST API, by the service's name or the chain's; another chain is 404."""
    path = "cosmos/bank/v1beta1/balances/cosmos1abc?pagination.limit=1"

    async def story() -> None:
        async with open_weather(tmp_path, "cosmos-lcd", "cosmoshub") as world:
            for name in ("cosmos-lcd", "cosmoshub", "Cosmos", "atom"):
                reply, _ = await ask(world, "GET", f"{name}/{path}")
                assert (reply.status, (await reply.json())["path"]) == (200, f"/base/{path}"), name
                assert reply.headers["x-steelyard-model"] == "cosmos-lcd"
            reply, body = await ask(world, "GET", f"osmosis/{path}")
            assert (reply.status, b"On sale: cosmos-lcd" in body) == (404, True)

    asyncio.run(story())


def test_bounds_of_a_request_each_have_their_error(tmp_path: Path) -> None:
    """Body, path and query: told apart, with the bound, and nothing is bought."""

    async def story() -> None:
        async with open_weather(tmp_path, max_body_bytes=4_096) as world:
            for path, data, status, said in (
                ("weather/now", b"x" * 4_097, 413, "4096"),
                ("weather/" + "x" * 2_049, b"", 400, "`path` has 2050 characters, the most are 2048"),
                ("weather/now?" + "x" * 8_193, b"", 400, "`query` has 8193 characters, the most are 8192"),
            ):
                reply, body = await ask(world, "POST", path, data=data)
                assert (reply.status, said in body.decode()) == (status, True), body
            assert not (await world.get("/calls"))[1]["data"]

    asyncio.run(story())


def test_idempotency_key_sends_a_request_once(tmp_path: Path) -> None:
    """A repeated POST is answered again, status and all, and reaches the server once; another one is a conflict."""

    async def story() -> None:
        async with open_weather(tmp_path) as world:
            key = {"idempotency-key": "one"}
            first, body = await ask(world, "POST", "weather/orders?n=1", data=b"{}", headers=key)
            again, same = await ask(world, "POST", "weather/orders?n=1", data=b"{}", headers=key)
            assert (first.status, again.status, same) == (201, 201, body)
            assert (first.headers.get("x-steelyard-replayed"), again.headers["x-steelyard-replayed"]) == (None, "true")
            assert again.headers["x-steelyard-call"] == first.headers["x-steelyard-call"]
            assert again.headers["content-security-policy"].startswith("sandbox")
            other, _ = await ask(world, "POST", "weather/orders?n=2", data=b"{}", headers=key)
            assert (other.status, (await other.json())["error"]["code"]) == (409, "idempotency_mismatch")
            assert len((await world.get("/calls"))[1]["data"]) == 1

    asyncio.run(story())


def test_header_says_who_may_serve_a_request(tmp_path: Path) -> None:
    """The provider that is named answers; where nobody is it, nobody else does."""

    async def story() -> None:
        async with open_weather(tmp_path) as world:
            name = "0x" + world.nodes[0].key.account.hex()
            for only, status in ((name, 200), ("0x" + "77" * 20, 503)):
                choice = json.dumps({"only": [only], "max_price": {"request": 1}})
                reply, _ = await ask(world, "GET", "weather/now", headers={"x-steelyard-choice": choice})
                assert reply.status == status
            dear = json.dumps({"max_price": {"request": 0}})
            reply, body = await ask(world, "GET", "weather/now", headers={"x-steelyard-choice": dear})
            assert (reply.status, b"no_provider_fits" in body) == (404, True)

    asyncio.run(story())
