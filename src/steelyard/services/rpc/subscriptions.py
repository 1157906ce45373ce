"""A subscription: one WebSocket to the operator's node for one order, and its notifications' results.

1. The first thing yielded is None, once the node took the subscription; then each result as JSON, in order.
2. It ends by itself after so many messages or seconds; leaving it closes the socket, and with it the subscription.
3. A socket that closes, an answer that is none or a node that says nothing to pings is `Unavailable`; a node's error
   about the subscription itself is the caller's.

Law: docs/spec/kinds/rpc.md, section 6.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import msgspec

from steelyard.errors import BadRequest, Unavailable
from steelyard.services.rpc.messages import RpcPayload, build_request

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
PING_S = 20.0
ANSWER_S = 10.0
"""How long the node may take to say whether it takes the subscription."""


class _Params(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    id: Any = None
    method: str = ""
    params: _Params | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


_decode = msgspec.json.Decoder(_Message).decode
_decode_error = msgspec.json.Decoder(_Error).decode


async def follow(
    session: aiohttp.ClientSession, url: str, payload: RpcPayload, *, headers: Mapping[str, str], proxy: str | None
) -> AsyncGenerator[bytes | None, None]:
    """Subscribe and yield what comes, as the module says.

    Raises:
        BadRequest: the node refuses this subscription. Unavailable: the node failed.
    """
    loop = asyncio.get_running_loop()
    count, is_taken, waiting = 0, False, list[bytes]()
    try:
        async with session.ws_connect(
            url, headers=dict(headers), proxy=proxy, heartbeat=PING_S, max_msg_size=MAX_MESSAGE_BYTES
        ) as socket:
            await socket.send_str(build_request(payload.items[0], 1).decode())
            ends_s = loop.time() + payload.max_s
            while count < payload.max_messages:
                left_s = ends_s - loop.time() if is_taken else ANSWER_S
                try:
                    frame = await socket.receive(timeout=max(0.0, left_s))
                except TimeoutError:
                    if is_taken:
                        return
                    raise Unavailable("the node did not answer the subscription", code="upstream_failed") from None
                if frame.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    raise Unavailable("the node closed the subscription", code="upstream_cut")
                message = _read(frame.data)
                if is_taken or message.id != 1:  # a notification may come before the answer
                    waiting += [result] if (result := _result_of(message)) else []
                else:
                    _check_taken(message)
                    is_taken = True
                    yield None
                if is_taken:
                    results, waiting = waiting[: payload.max_messages - count], []
                    for result in results:
                        count += 1
                        yield result
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise Unavailable(f"the node's WebSocket failed: {type(error).__name__}", code="upstream_failed") from error


def _read(data: str | bytes) -> _Message:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unavailable("the node sent a message that is no JSON-RPC", code="upstream_failed") from error


def _check_taken(message: _Message) -> None:
    error = bytes(message.error)
    if error not in (b"", b"null"):
        try:
            said = _decode_error(error)
        except (msgspec.MsgspecError, UnicodeError):
            said = _Error(0, error[:200].decode(errors="replace"))
        raise BadRequest(f"the chain's node refused the subscription: {said.message} ({said.code})", param="params")
    if not message.result:
        raise Unavailable("the node's answer to the subscription is none", code="upstream_failed")


def _result_of(message: _Message) -> bytes:
    """What a notification says: `params.result`, or (CometBFT) a further result under the subscription's id."""
    if message.params is not None:
        return bytes(message.params.result)
    return bytes(message.result) if message.id == 1 else b""
