"""engines/http_session.py: an operator's URL is checked, the environment's proxy is found once, waiting has an end."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from steelyard.engines.http_session import BUSY, LONGEST_REST_S, await_head, find_proxy, raise_if_busy, split_url
from steelyard.errors import ConfigError, Unavailable

HTTP = ("http", "https")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("url", ["http://h", "https://u:p@h:1/v1?key=k", "http://[::1]:8545/"])
def test_url_of_a_server_passes(url: str) -> None:
    """With a port, a path, a key or a user: it is the operator's."""
    assert split_url(url, HTTP, "upstream").geturl() == url


@pytest.mark.parametrize(
    "url", ["", "h", "//h", "file:///etc/passwd", "ws://h", "http://", "http://[::1", "http://h#x"]
)
def test_url_of_none_is_refused_with_what_to_write(url: str) -> None:
    """Another scheme, no host, or a fragment; the value isn't repeated, since it may hold a key."""
    with pytest.raises(
        ConfigError, match=r"^the option upstream is no URL of a server: write http:// or https://HOST$"
    ):
        split_url(url, HTTP, "upstream")


def test_proxy_of_the_environment_is_found_but_for_hosts_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy and https_proxy, for WebSockets too; no_proxy excepts hosts."""
    node = split_url("https://node.example/v1", HTTP, "upstream")
    assert find_proxy(node) is None
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,inside.example")
    assert find_proxy(node) == "http://proxy.example:3128"
    assert find_proxy(split_url("wss://node.example", ("wss",), "upstream_ws")) == "http://proxy.example:3128"
    assert find_proxy(split_url("http://node.example", HTTP, "upstream")) is None
    assert find_proxy(split_url("https://user:p@inside.example:8545", HTTP, "upstream")) is None


@pytest.mark.parametrize(
    ("status", "told", "rest_s"),
    [
        (429, None, 0.0),
        (429, "7", 7.0),
        (503, "2", 2.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        (429, "-1", 0.0),
        (429, "99999999", LONGEST_REST_S),
    ],
)
def test_busy_upstream_is_told_from_a_broken_one(status: int, told: str | None, rest_s: float) -> None:
    """429, or a 503 with Retry-After: its seconds are kept, within bounds; dates and nonsense rest it shortly."""
    with pytest.raises(Unavailable) as raised:
        raise_if_busy(status, {} if told is None else {"Retry-After": told}, "the server")
    assert (raised.value.code, raised.value.retry_after_s) == (BUSY, rest_s)


@pytest.mark.parametrize(("status", "told"), [(503, None), (500, "5"), (200, "5")])
def test_broken_upstream_is_not_called_busy(status: int, told: str | None) -> None:
    """Other statuses are left to whoever reads them."""
    raise_if_busy(status, {} if told is None else {"Retry-After": told}, "the server")


@pytest.mark.parametrize("is_repeatable", [True, False])
def test_request_that_lost_its_kept_connection_is_sent_once_more(is_repeatable: bool) -> None:
    """A server that closed it just then is asked again, if that does no harm; a second loss is a loss."""
    asked: list[int] = []

    async def send() -> Any:
        asked.append(1)
        raise aiohttp.ServerDisconnectedError

    async def story() -> None:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await await_head(send, 1.0, is_repeatable=is_repeatable)

    asyncio.run(story())
    assert len(asked) == 1 + is_repeatable


def test_head_that_does_not_come_in_time_is_given_up() -> None:
    """However it trickles: the whole head has so long."""

    async def never() -> Any:
        await asyncio.Event().wait()

    async def story() -> None:
        with pytest.raises(TimeoutError):
            await await_head(never, 0.01)

    asyncio.run(story())
