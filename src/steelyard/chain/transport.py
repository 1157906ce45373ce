"""HTTP to one or several endpoints of the same chain: failover, back-off, limits.

1. Endpoints are tried in the order given; one that failed rests, and is tried again when all others failed too.
2. A body whose effect may not be repeated is sent again only if it surely never left this machine.
3. An endpoint is asked for its chain id before it is trusted, and again after each failure.
4. A URL may hold a secret (user, path, query): messages show its scheme, host and port alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from steelyard.errors import ChainError, ChainUnreachable, ConfigError

Reply = TypeVar("Reply")

MAX_REPLY_BYTES = 64 * 1024 * 1024
_CHAIN_ID_BODY = b'{"jsonrpc":"2.0","id":0,"method":"eth_chainId","params":[]}'


@dataclass(slots=True)
class _Endpoint:
    url: str
    shown: str
    failures: int = 0
    rests_until: float = 0.0
    is_verified: bool = False


class EndpointFailed(Exception):
    """One endpoint did not do; never leaves this package. `was_sent`: the body may have taken effect there."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class Transport:
    """Posts JSON bodies to whichever endpoint answers; the session opens with the first call.

    Args:
        urls: http or https, best first; all of one chain.
        chain_id: what each endpoint must serve, or None to take any.
        timeout_s: for one attempt at one endpoint. rounds: attempts at every endpoint before giving up.
        backoff_s: pause before the second round, doubled each round. clock: monotonic seconds.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None,
        timeout_s: float,
        rounds: int,
        backoff_s: float,
        clock: Callable[[], float],
    ) -> None:
        if not urls:
            raise ConfigError("no rpc url is given: name at least one, e.g. http://127.0.0.1:8545")
        self._endpoints = [_Endpoint(url, show_url(url)) for url in urls]
        self._chain_id = chain_id
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._rounds = rounds
        self._backoff_s = backoff_s
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    @property
    def shown(self) -> str:
        """The endpoints as messages may show them."""
        return ", ".join(endpoint.shown for endpoint in self._endpoints)

    async def aclose(self) -> None:
        """Close the session; a later call opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, body: bytes, parse: Callable[[bytes], Reply], *, is_repeatable: bool) -> Reply:
        """Return the first endpoint's answer to a JSON body, through `parse`, which raises EndpointFailed to refuse it.

        Raises:
            ChainUnreachable: none answered, or a body that may not be repeated may have been delivered.
            ConfigError: an endpoint serves another chain and no other endpoint answered.
        """
        failures: dict[str, str] = {}
        for attempt in range(self._rounds):
            if attempt:
                await asyncio.sleep(self._backoff_s * 2 ** (attempt - 1))
            for endpoint in self._in_order():
                try:
                    await self._verify(endpoint)
                    reply = parse(await self._post_once(endpoint, body))
                except EndpointFailed as failure:
                    self._rest(endpoint)
                    failures[endpoint.shown] = str(failure)
                    if failure.was_sent and not is_repeatable:
                        raise ChainUnreachable(
                            f"{endpoint.shown} broke off: {failure}; the call may have had effect and isn't repeated"
                        ) from failure
                else:
                    endpoint.failures, endpoint.rests_until = 0, 0.0
                    return reply
        reasons = "; ".join(f"{shown}: {reason}" for shown, reason in failures.items())
        if all("serves chain" in reason for reason in failures.values()):
            raise ConfigError(f"{reasons}: correct the rpc url")
        raise ChainUnreachable(f"no rpc endpoint answers ({reasons}): is the chain running?")

    def _in_order(self) -> list[_Endpoint]:
        now = self._clock()
        return sorted(self._endpoints, key=lambda endpoint: endpoint.rests_until > now)

    def _rest(self, endpoint: _Endpoint) -> None:
        endpoint.failures += 1
        endpoint.is_verified = False
        endpoint.rests_until = self._clock() + min(30.0, self._backoff_s * 2 ** min(endpoint.failures, 10))

    async def _verify(self, endpoint: _Endpoint) -> None:
        if endpoint.is_verified or self._chain_id is None:
            return
        try:
            reply = await self._post_once(endpoint, _CHAIN_ID_BODY)
            served = int(msgspec.json.decode(reply)["result"], 16)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise EndpointFailed("its answer to eth_chainId isn't JSON-RPC", was_sent=False) from error
        except EndpointFailed as failure:
            raise EndpointFailed(str(failure), was_sent=False) from failure
        if served != self._chain_id:
            raise EndpointFailed(f"it serves chain {served}, not {self._chain_id}", was_sent=False)
        endpoint.is_verified = True

    async def _post_once(self, endpoint: _Endpoint, body: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers={"Content-Type": "application/json"})
        try:
            async with self._session.post(endpoint.url, data=body, allow_redirects=False) as response:
                reply = await _read_bounded(response)
                if response.status == 429 or response.status >= 500:
                    raise EndpointFailed(f"HTTP {response.status}", was_sent=response.status != 429)
                if response.status >= 300 and not reply.lstrip().startswith((b"{", b"[")):
                    raise EndpointFailed(f"HTTP {response.status}: {reply[:120]!r}", was_sent=False)
                return reply
        except aiohttp.ClientConnectorError as error:
            raise EndpointFailed(
                f"can't connect ({error.os_error.strerror or error.os_error})", was_sent=False
            ) from error
        except TimeoutError as error:
            raise EndpointFailed(f"no answer within {self._timeout.total:g} s", was_sent=True) from error
        except aiohttp.InvalidURL as error:
            raise ConfigError(f"{endpoint.shown} is no http url") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EndpointFailed(f"{type(error).__name__}: {error}"[:200], was_sent=True) from error

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_REPLY_BYTES:
            raise ChainError(f"an answer is over {MAX_REPLY_BYTES} bytes: ask for less", code="rpc_range_too_large")
        parts.append(part)
    return b"".join(parts)


def show_url(url: str) -> str:
    """Return a URL's scheme, host and port; raises ConfigError if it isn't http(s) with a host."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise ConfigError("an rpc url has an unreadable port: it looks like http://host:8545") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"an rpc url begins with http:// or https:// and names a host, not {parts.scheme!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"
