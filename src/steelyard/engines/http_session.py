"""The operator's own HTTP servers, behind engines and relaying kinds: their URLs, a session for each, and its bounds.

1. A URL comes from the node's configuration alone; it is checked before anything is sent.
2. The proxy of the environment is looked up once. Nothing else of the environment is used: no netrc, no cookies.
3. A session bounds connecting, silence, and how long the head of an answer may take, however busily it trickles in.
   Whoever reads an answer bounds its size.

Law: docs/spec/kinds/rpc.md, section 5; docs/spec/kinds/rest.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from steelyard.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 5.0
SILENCE_S = 60.0
CONNECTIONS = 256

BUSY = "upstream_busy"
"""The code of an upstream that is well and takes no more now: its provider is rested, not blamed."""

LONGEST_REST_S = 3_600.0


def split_url(url: str, schemes: Sequence[str], option: str) -> SplitResult:
    """Return the parts of an upstream's URL; raises ConfigError unless it has one of the schemes and a host."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.hostname and not parts.fragment:
            return parts
    raise ConfigError(f"the option {option} is no URL of a server: write {' or '.join(s + '://' for s in schemes)}HOST")


def named_upstream(service: str, options: Mapping[str, str]) -> str:
    """Return the URL that a relaying service's options name; raises ConfigError if they name none."""
    if url := options.get("upstream"):
        return url
    raise ConfigError(f"{service!r} has no upstream on this machine: give --upstream URL, or options.upstream")


def find_proxy(parts: SplitResult) -> str | None:
    """Return the proxy that the environment names for a URL (http_proxy, https_proxy, no_proxy), or None."""
    proxies = getproxies_environment()
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxies.get({"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)) or None


def open_session(silence_s: float = SILENCE_S) -> aiohttp.ClientSession:
    """Return a session that gives an answer up after so long without a byte; it is the caller's to close."""
    import aiohttp

    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Content-Type",),
        # each request would look for a netrc file in a thread; `find_proxy` does once what is wanted of it
        trust_env=False,
    )


async def await_head(
    send: Callable[[], Awaitable[aiohttp.ClientResponse]],
    seconds: float = SILENCE_S,
    *,
    is_repeatable: bool = True,
) -> aiohttp.ClientResponse:
    """Return the answer to a request once its head is whole.

    A server may close a connection that was kept just as the next request leaves on it (llama-server does, after each
    stream): a request that lost its connection before any answer is sent once more, if that does no harm.

    Args:
        send: makes and sends the request. is_repeatable: it may reach the server twice.

    Raises:
        TimeoutError: it takes longer than so many seconds. aiohttp.ClientError: it failed.
    """
    import aiohttp

    async with asyncio.timeout(seconds):
        try:
            return await send()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not is_repeatable or isinstance(error, aiohttp.ClientConnectorError):
                raise
        return await send()


def raise_if_busy(status: int, headers: Mapping[str, str], what: str) -> None:
    """Raise Unavailable with the code `BUSY` for a 429, or a 503 that says when to come back.

    Args:
        status, headers: of the answer. what: ends the message: who it was, and what it said.
    """
    told = headers.get("Retry-After")
    if status != 429 and not (status == 503 and told):
        return
    rest_s = float(told) if told and told.isascii() and told.isdigit() else 0.0  # a date, too: who rests, rests shortly
    again = f", for {told} s," if rest_s else ""
    raise Unavailable(f"busy{again} says {what}", code=BUSY, retry_after_s=min(rest_s, LONGEST_REST_S))


def name_failure(error: BaseException) -> str:
    """Say what went wrong without the error's own words: they may hold the address, and with it a key."""
    import aiohttp

    if isinstance(error, TimeoutError):
        return "no answer in time"
    return "can't connect to it" if isinstance(error, aiohttp.ClientConnectorError) else type(error).__name__
