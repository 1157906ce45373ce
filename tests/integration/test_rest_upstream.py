"""services/rest before a real HTTP server: what goes upstream, what comes back, and what never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.relay_world import open_weather
from tests.service_world import collect, ignore

from steelyard.errors import BadRequest, ConfigError, Unavailable
from steelyard.services.port import Result
from steelyard.services.rest import RestService
from steelyard.services.rest.requests import RestPayload, encode_call, read_answer


def play(story: Callable[[RestService, str], Awaitable[Any]], suffix: str = "", **options: str) -> Any:
    """Run a story on a service before the weather server; `suffix` is added to the upstream's URL."""

    async def run() -> Any:
        async with open_weather() as url:
            service = RestService(RestService.describe("weather"), options={"upstream": url + suffix, **options})
            try:
                return await story(service, url)
            finally:
                await service.aclose()

    return asyncio.run(run())


async def ask(service: RestService, *call: Any) -> tuple[Result, tuple[int, str, bytes]]:
    """The result of a call, and its answer."""
    result, _ = await collect(service, service.parse("rest", encode_call(*call)))
    return result, read_answer(result.content)


def test_call_reaches_the_prefix_with_its_query_and_body_and_nothing_else() -> None:
    """Path, query, body and content type go upstream as they were; the operator's key is added; it costs one call."""

    async def story(service: RestService, _: str) -> None:
        await service.prepare(ignore)
        call = ("POST", "/cities/B%C3%A9rn", "unit=c&x=%26", "application/json", b'{"days": 3}')
        result, (status, content_type, body) = await ask(service, *call)
        said = json.loads(body)
        assert (status, content_type) == (200, "application/json; charset=utf-8")
        assert (said["method"], said["body"]) == ("POST", '{"days": 3}')
        assert said["path"] == "/v1/cities/B%C3%A9rn?unit=c&x=%26&key=s3cret"
        assert said["headers"]["content-type"] == "application/json"
        assert said["headers"]["authorization"] == "Bearer t0ken"
        assert "cookie" not in said["headers"]
        assert (result.units_in, result.units_out) == (1, 0)

    play(story, "?key=s3cret", upstream_authorization="Bearer t0ken")


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 409, 410, 422])
def test_status_and_type_are_the_servers(status: int) -> None:
    """What the server says of the call, good or bad, is the answer and is paid for."""

    async def story(service: RestService, _: str) -> None:
        _, (found, content_type, body) = await ask(service, "GET", f"status/{status}")
        assert found == status
        assert content_type.startswith("text/plain")
        assert body == (b"" if status in (204, 304) else b"so")

    play(story)


@pytest.mark.parametrize("path", ["status/401", "status/403", "status/429", "status/500", "status/503", "away", "huge"])
def test_servers_own_trouble_is_unavailable(path: str) -> None:
    """Refused keys, limits, crashes, redirects and endless answers: another provider is asked, nothing is shown."""

    async def story(service: RestService, url: str) -> None:
        with pytest.raises(Unavailable) as caught:
            await ask(service, "GET", path)
        assert url not in caught.value.message
        assert "secret" not in caught.value.message

    play(story)


@pytest.mark.parametrize("path", ["../admin", "%2e%2e/admin", "//127.0.0.1/admin", "@evil.example/x/../.."])
def test_no_call_leaves_the_prefix(path: str) -> None:
    """A path that could lead to the operator's other pages, or to another host, is refused before anything is sent."""

    async def story(service: RestService, _: str) -> None:
        with pytest.raises(BadRequest):
            await ask(service, "GET", path)

    play(story)


def test_upstream_refuses_what_parse_would_have() -> None:
    """The second lock: even a payload that never saw `parse` does not leave the prefix."""

    async def story(service: RestService, _: str) -> None:
        request = service.parse("rest", encode_call("GET", "a"))
        for path in ("../admin", "%2e%2e/admin"):
            forged = type(request)(api="rest", model="weather", payload=RestPayload("GET", path, "", "", b""))
            try:
                result, _ = await collect(service, forged)
                assert json.loads(read_answer(result.content)[2])["path"].startswith("/v1/")
            except BadRequest:
                continue

    play(story)


def test_dead_server_and_wrong_url_stop_the_start() -> None:
    """A node doesn't begin to sell what isn't there, and says in one line what to write."""

    async def run(url: str) -> None:
        service = RestService(RestService.describe("weather"), options={"upstream": url} if url else {})
        try:
            await service.prepare(ignore)
        finally:
            await service.aclose()

    for url, told in (
        ("http://127.0.0.1:1", "does not answer"),
        ("ftp://h/x", "http:// or https://"),
        ("", "has no upstream"),
    ):
        with pytest.raises(ConfigError, match=told):
            asyncio.run(run(url))
