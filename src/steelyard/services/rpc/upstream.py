"""The operator's own node: JSON-RPC over HTTP, and whose fault an answer is.

1. One session for all calls, with bounds on time and size. Redirects are not followed.
2. An upstream's answer counts only if it carries our id. Errors that say that the node is unwell, busy or confused
   (blame.py, HTTP 429, an id of null) are `Unavailable`: they are never shown as an answer to the caller, and another
   provider is asked.
3. A batch goes out as one batch. Where the node refuses batches it is asked item by item from then on. Light requests
   of different callers are sent together while the node is busy (merging.py).

Law: docs/spec/kinds/rpc.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from steelyard.engines.http_session import (
    SILENCE_S,
    await_head,
    find_proxy,
    name_failure,
    open_session,
    raise_if_busy,
    split_url,
)
from steelyard.errors import Unavailable
from steelyard.services.rpc.blame import blame_node
from steelyard.services.rpc.catalogue import Probe
from steelyard.services.rpc.merging import Merger
from steelyard.services.rpc.messages import (
    RpcItem,
    RpcPayload,
    build_request,
    build_response,
    join_responses,
)

MAX_ANSWER_BYTES = 32 * 1024 * 1024
FAN_OUT = 16
"""Requests of one batch that are asked at once where the node takes no batches."""

NO_BATCHES = frozenset({400, 404, 405, 413, 501})


class _Response(msgspec.Struct):
    id: Any = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_decode_one = msgspec.json.Decoder(_Response).decode
_decode_many = msgspec.json.Decoder(list[_Response]).decode


class Upstream:
    """A node of one chain.

    Args:
        url, websocket_url: the operator's; the second is for subscriptions and may be empty.
        authorization: the value of the header, if any. is_light: whether any node answers a method at once.
        silence_s: how long the node may say nothing.

    Raises:
        ConfigError: a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        websocket_url: str = "",
        authorization: str = "",
        is_light: Callable[[str], bool] = lambda method: False,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._proxy = find_proxy(split_url(url, ("http", "https"), "upstream"))
        self._websocket_proxy = None
        if websocket_url:
            self._websocket_proxy = find_proxy(split_url(websocket_url, ("ws", "wss"), "upstream_ws"))
        self._url, self._websocket_url = URL(url), websocket_url
        self._headers = {"Content-Type": "application/json"}
        if authorization:
            self._headers["Authorization"] = authorization
        self._http: aiohttp.ClientSession | None = None
        self._takes_batches = True
        self._is_light = is_light
        self._silence_s = silence_s
        self._merger = Merger(self._ask_one, self._ask_batch)
        self._is_closed = False

    async def call(self, payload: RpcPayload) -> bytes:
        """Return the whole answer to a request or a batch, with the client's ids in the client's order.

        Raises:
            Unavailable: the node failed; nothing of its answer is shown.
        """
        asked = payload.forwarded
        found = None
        if self._takes_batches and len(asked) > 1:
            found = await self._ask_batch(asked)
        elif self._takes_batches and asked and asked[0].id_raw and self._is_light(asked[0].method):
            found = [await self._merger.ask(asked[0])]
        if found is None:
            found = await self._fan_out(asked)
        responses, answers = [], iter(found)
        for item in payload.items:
            answer = (b"", item.error) if item.error else next(answers)
            if item.id_raw:
                responses.append(build_response(item.id_raw, result=answer[0], error=answer[1]))
        return join_responses(responses, is_batch=payload.is_batch)

    async def ask(self, probe: Probe) -> Any:
        """Return the decoded result of a probe; raises Unavailable, if the node says an error too."""
        item = RpcItem(b"1", probe.method, msgspec.json.encode(probe.params))
        result, error = await self._ask_one(item)
        if error:
            raise _unwell(f"{probe.method}: {error[:200].decode(errors='replace')}")
        return msgspec.json.decode(result)

    async def subscribe(self, payload: RpcPayload) -> AsyncGenerator[bytes | None, None]:
        """Yield None once the node took the subscription, then the JSON of each notification's result; see
        `subscriptions.follow`.
        """
        from steelyard.services.rpc.subscriptions import follow

        if not self._websocket_url:
            raise Unavailable("this provider has no WebSocket upstream", code="no_subscriptions")
        async for result in follow(
            self._session(), self._websocket_url, payload, headers=self._headers, proxy=self._websocket_proxy
        ):
            yield result

    async def aclose(self) -> None:
        """Close all connections."""
        self._is_closed = True
        await self._merger.aclose()
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _fan_out(self, items: Sequence[RpcItem]) -> list[tuple[bytes, bytes]]:
        if len(items) == 1:
            return [await self._ask_one(items[0])]
        turns = asyncio.Semaphore(FAN_OUT)

        async def ask(item: RpcItem) -> tuple[bytes, bytes]:
            async with turns:
                return await self._ask_one(item)

        tasks = [asyncio.create_task(ask(item)) for item in items]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _ask_one(self, item: RpcItem) -> tuple[bytes, bytes]:
        """The raw result and the raw error of one request; one of them is empty. A notification has neither."""
        status, body = await self._post(build_request(item, 1))
        if not item.id_raw:
            if status >= 400:
                raise _unwell(f"status {status}")
            return b"", b""
        try:
            response = _decode_one(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _unwell(f"status {status}, and no JSON-RPC: {body[:80].decode(errors='replace')}") from error
        return _read_response(response, 1, status)

    async def _ask_batch(self, items: Sequence[RpcItem]) -> list[tuple[bytes, bytes]] | None:
        """The same of a batch; None if the node takes none."""
        status, body = await self._post(
            b"[" + b",".join(build_request(item, number) for number, item in enumerate(items, 1)) + b"]"
        )
        wanted = sum(1 for item in items if item.id_raw)
        if body[:1] != b"[" and (status in NO_BATCHES or (status == 200 and _is_error(body))):
            self._takes_batches = False
            return None
        if not wanted and status < 400:
            return [(b"", b"")] * len(items)
        try:
            responses = _decode_many(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _unwell(f"status {status}, and no answer to a batch") from error
        by_id: Mapping[Any, _Response] = {
            response.id: response for response in responses if isinstance(response.id, int)
        }
        if len(by_id) != wanted or len(responses) != wanted:
            raise _unwell(f"{len(responses)} answers to {wanted} requests")
        found = []
        for number, item in enumerate(items, 1):
            if not item.id_raw:
                found.append((b"", b""))
            elif number in by_id:
                found.append(_read_response(by_id[number], number, status))
            else:
                raise _unwell(f"no answer to request {number} of a batch")
        return found

    async def _post(self, data: bytes) -> tuple[int, bytes]:
        send = partial(
            self._session().post, self._url, data=data, headers=self._headers, allow_redirects=False, proxy=self._proxy
        )
        try:
            async with await await_head(send, self._silence_s) as response:
                raise_if_busy(response.status, response.headers, f"the provider's node (status {response.status})")
                if response.status in (401, 402, 403, 407, 429):
                    raise _unwell(f"status {response.status}")
                length = response.content_length
                if length is not None and length > MAX_ANSWER_BYTES:
                    raise _too_long()
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise _too_long()
                return response.status, bytes(body).strip()
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise _unwell(name_failure(error)) from error

    def _session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise Unavailable("the upstream is closed", code="upstream_failed")
        if self._http is None:
            self._http = open_session(self._silence_s)
        return self._http


def _read_response(response: _Response, number: int, status: int) -> tuple[bytes, bytes]:
    if response.id != number or isinstance(response.id, bool):
        raise _unwell(f"status {status}, and an answer with the id {response.id!r:.40}")
    result, error = bytes(response.result), bytes(response.error)
    if error in (b"", b"null"):
        if not result:
            raise _unwell("an answer without a result")
        return result, b""
    if blame := blame_node(error):
        raise _unwell(f"{blame}: {error[:200].decode(errors='replace')}")
    if status in (502, 503, 504):
        raise _unwell(error[:200].decode(errors="replace"))
    return b"", error


def _is_error(body: bytes) -> bool:
    try:
        return bool(_decode_one(body).error)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


def _unwell(what: str) -> Unavailable:
    return Unavailable(f"the provider's node failed: {what}", code="upstream_failed")


def _too_long() -> Unavailable:
    return Unavailable(f"the node's answer is over {MAX_ANSWER_BYTES} bytes: ask for less", code="upstream_failed")
