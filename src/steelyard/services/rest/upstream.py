"""The operator's own HTTP server behind a `rest` service.

1. The URL is the operator's, the caller's path is put behind its path: what is asked never leaves that prefix.
2. Redirects are not followed and not shown: they would name hosts, and lead past the gateway.
3. Only the content type is sent along; cookies are neither kept nor sent.

Law: docs/spec/kinds/rest.md.
"""

from __future__ import annotations

from functools import partial

import aiohttp
from yarl import URL

from steelyard.engines.http_session import await_head, find_proxy, name_failure, open_session, raise_if_busy, split_url
from steelyard.errors import BadRequest, Unavailable
from steelyard.services.rest.requests import RestPayload, pack_answer

MAX_ANSWER_BYTES = 8 * 1024 * 1024

OWN_FAULTS = frozenset({401, 402, 403, 407, 421, 429, 500, 502, 503, 504, 508})
"""Statuses that tell of the operator's server or of the operator's standing there, and not of the call."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class Upstream:
    """One server; `url` may hold a path and a query of its own (an API key), `authorization` is a header's value.

    Raises:
        ConfigError: the URL is no http or https URL.
    """

    def __init__(self, url: str, *, authorization: str = "") -> None:
        self._parts = split_url(url, ("http", "https"), "upstream")
        self._proxy = find_proxy(self._parts)
        self._headers = {"Authorization": authorization} if authorization else {}
        self._http: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def call(self, payload: RestPayload) -> bytes:
        """Return the answer's content, as `requests.pack_answer` makes it.

        Raises:
            Unavailable: the server failed. BadRequest: the path would lead out of the prefix.
        """
        headers = {**self._headers, "Accept": "*/*"}
        if payload.content_type:
            headers["Content-Type"] = payload.content_type
        return await self._ask(payload.method, self._url(payload), headers, payload.body)

    async def knock(self) -> None:
        """Ask for the prefix itself; raises Unavailable if nothing answers."""
        await self._exchange("GET", URL(self._parts.geturl(), encoded=True), self._headers, b"")

    async def aclose(self) -> None:
        """Close all connections."""
        self._is_closed = True
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _url(self, payload: RestPayload) -> URL:
        prefix = self._parts.path.rstrip("/") + "/"
        query = "&".join(part for part in (payload.query, self._parts.query) if part)
        url = URL(self._parts._replace(path=prefix + payload.path, query=query).geturl(), encoded=True)
        if url.raw_authority != self._parts.netloc or not url.raw_path.startswith(prefix):
            raise BadRequest("`path` must stay below the service", param="path")
        return url

    async def _ask(self, method: str, url: URL, headers: dict[str, str], body: bytes) -> bytes:
        status, content_type, data = await self._exchange(method, url, headers, body)
        if status in OWN_FAULTS or not 200 <= status < 600:
            raise _failed(f"answered {status}")
        if 300 <= status < 400 and status != 304:
            raise _failed(f"redirects ({status}), which is not followed")
        return pack_answer(status, content_type, data)

    async def _exchange(self, method: str, url: URL, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        send = partial(
            self._session().request,
            method,
            url,
            data=body or None,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
        )
        try:
            async with await await_head(send, is_repeatable=method in IDEMPOTENT) as response:
                raise_if_busy(response.status, response.headers, f"the provider's server (status {response.status})")
                data = bytearray()
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > MAX_ANSWER_BYTES:
                        raise Unavailable(
                            f"the server's answer is over {MAX_ANSWER_BYTES} bytes: ask for less",
                            code="upstream_failed",
                        )
                return response.status, response.headers.get("Content-Type", ""), bytes(data)
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise _failed(f"failed: {name_failure(error)}") from error

    def _session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise Unavailable("the upstream is closed", code="upstream_failed")
        if self._http is None:
            self._http = open_session()
        return self._http


def _failed(what: str) -> Unavailable:
    return Unavailable(f"the provider's server {what}", code="upstream_failed")
