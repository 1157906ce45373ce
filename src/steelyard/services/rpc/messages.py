"""JSON-RPC 2.0 as relays speak it: bytes to items, and items to answers.

1. Whatever is forwarded is written anew from the items, with ids of our own: a client's duplicate ids, duplicate keys
   and odd spelling never reach an upstream. Answers carry the client's own ids, byte for byte.
2. A single request that can't be served raises `BadRpc`. In a batch it becomes an item with its error in place, and the
   other items are served: order and number of the answers are those of the requests, without the notifications.
3. A notification (no id) is forwarded and has no answer.

Pure. Law: docs/spec/kinds/rpc.md, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from steelyard.errors import BadRequest

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601

MAX_ITEMS = 1_000
"""Requests in a batch."""

MAX_ID_BYTES = 256
MAX_METHOD_CHARS = 128

_METHOD = re.compile(r"[A-Za-z0-9_.:/-]+")


class BadRpc(BadRequest):
    """A request that JSON-RPC has an error for; a front answers with `error_response(id_raw, rpc_code, message)`."""

    code = "invalid_rpc"

    def __init__(self, message: str, rpc_code: int, id_raw: bytes = b"null", *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.rpc_code = rpc_code
        self.id_raw = id_raw


class RpcItem(msgspec.Struct, frozen=True, gc=False):
    """One request.

    Attributes:
        id_raw: the id as JSON, as the client wrote it; b"" for a notification.
        method, params_raw: what is asked; parameters are a JSON list or object, or b"" if left out.
        error: a JSON-RPC error object: this item is answered with it and is not forwarded; b"" otherwise.
    """

    id_raw: bytes
    method: str
    params_raw: bytes = b""
    error: bytes = b""


class RpcPayload(msgspec.Struct, frozen=True, gc=False):
    """What a body asks for, in its order; `max_messages` and `max_s` bound a subscription."""

    items: tuple[RpcItem, ...]
    is_batch: bool
    max_messages: int = 0
    max_s: int = 0

    @property
    def forwarded(self) -> list[RpcItem]:
        """The items that an upstream has to be asked."""
        return [item for item in self.items if not item.error]


class _Call(msgspec.Struct, gc=False):
    jsonrpc: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()
    method: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = msgspec.Raw()


class _Plain(msgspec.Struct, gc=False):
    method: str
    jsonrpc: str = ""
    id: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = msgspec.Raw()


_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_one = msgspec.json.Decoder(_Call).decode
_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode

FindError = Callable[[str], str]
"""Says why a method is not served, or ""."""


def parse_body(body: bytes, versions: Sequence[str], find_error: FindError) -> RpcPayload:
    """Return what a JSON-RPC body asks for.

    Args:
        body: untrusted. versions: of the protocol that the chain's nodes take; "" allows leaving it out.
        find_error: says of a method why it isn't served.

    Raises:
        BadRpc: no JSON, no request, an empty or too large batch, or one request that can't be served.
    """
    try:
        if not body.isascii():
            body.decode()
        if body.lstrip()[:1] == b"[":
            return RpcPayload(_read_batch(body, versions, find_error), is_batch=True)
        if body.lstrip()[:1] != b"{":
            msgspec.json.decode(body)
            raise BadRpc("the body is no JSON-RPC request: send an object or a list of them", INVALID_REQUEST)
        return RpcPayload((_read_item(body, versions, find_error),), is_batch=False)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRpc(f"the body is no JSON: {str(error)[:120]}", PARSE_ERROR, code="invalid_json") from error


def read_object(body: bytes) -> dict[str, Any]:
    """Return the members of a body that is one request, whatever they are; {} if it is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def error_object(code: int, message: str) -> bytes:
    """Return a JSON-RPC error object."""
    return msgspec.json.encode({"code": code, "message": message})


def error_response(id_raw: bytes, code: int, message: str) -> bytes:
    """Return a JSON-RPC answer that carries an error; `id_raw` is JSON, b"" counts as null."""
    return build_response(id_raw or b"null", error=error_object(code, message))


def build_response(id_raw: bytes, *, result: bytes = b"", error: bytes = b"") -> bytes:
    """Return one answer from raw JSON: a result, or an error object."""
    what = b'"error":' + error if error else b'"result":' + result
    return b'{"jsonrpc":"2.0","id":' + id_raw + b"," + what + b"}"


def build_request(item: RpcItem, number: int) -> bytes:
    """Return what is sent upstream for an item, under a number of ours; a notification has none."""
    params = b',"params":' + item.params_raw if item.params_raw else b""
    id_raw = b',"id":%d' % number if item.id_raw else b""
    return b'{"jsonrpc":"2.0"' + id_raw + b',"method":' + msgspec.json.encode(item.method) + params + b"}"


def join_responses(responses: Sequence[bytes], *, is_batch: bool) -> bytes:
    """Return the whole answer; b"" if there is nothing to answer (notifications alone)."""
    if not responses:
        return b""
    return b"[" + b",".join(responses) + b"]" if is_batch else responses[0]


def _read_batch(body: bytes, versions: Sequence[str], find_error: FindError) -> tuple[RpcItem, ...]:
    raws = _decode_batch(body)
    if not raws:
        raise BadRpc("the batch is empty: send at least one request", INVALID_REQUEST)
    if len(raws) > MAX_ITEMS:
        raise BadRpc(
            f"the batch has {len(raws)} requests, the most are {MAX_ITEMS}: split it",
            INVALID_REQUEST,
            code="batch_too_large",
        )
    items = []
    for raw in raws:
        try:
            if bytes(raw).lstrip()[:1] != b"{":
                raise BadRpc("an item of the batch is no JSON-RPC request: send an object", INVALID_REQUEST)
            items.append(_read_item(raw, versions, find_error))
        except BadRpc as error:
            items.append(RpcItem(error.id_raw, "", b"", error_object(error.rpc_code, error.message)))
    return tuple(items)


def _read_item(data: bytes | msgspec.Raw, versions: Sequence[str], find_error: FindError) -> RpcItem:
    try:
        call = _decode_plain(data)
    except msgspec.ValidationError:
        raise _explain(_decode_one(data)) from None
    id_raw, params_raw = bytes(call.id), bytes(call.params)
    if id_raw and not _is_id(id_raw):
        raise _explain_id(id_raw)
    if call.jsonrpc not in versions:
        raise BadRpc('`jsonrpc` must be "2.0"', INVALID_REQUEST, id_raw or b"null")
    method = call.method
    if len(method) > MAX_METHOD_CHARS or not _METHOD.fullmatch(method):
        raise BadRpc("`method` is no method's name", INVALID_REQUEST, id_raw or b"null")
    if params_raw[:1] not in (b"[", b"{", b""):
        if params_raw != b"null":
            raise BadRpc("`params` must be a list or an object", INVALID_REQUEST, id_raw or b"null")
        params_raw = b""
    if why := find_error(method):
        raise BadRpc(why, METHOD_NOT_FOUND, id_raw, code="method_refused")  # a notification is never answered
    return RpcItem(id_raw, method, params_raw)


def _explain(call: _Call) -> BadRpc:
    """What is wrong with an object that has no text as its method or version."""
    id_raw = bytes(call.id)
    if id_raw and not _is_id(id_raw):
        return _explain_id(id_raw)
    if bytes(call.jsonrpc)[:1] != b'"':
        return BadRpc('`jsonrpc` must be "2.0"', INVALID_REQUEST, id_raw or b"null")
    return BadRpc("`method` is missing, or is no text", INVALID_REQUEST, id_raw or b"null")


def _explain_id(id_raw: bytes) -> BadRpc:
    shown = id_raw[:40].decode(errors="replace")
    return BadRpc(f"`id` is {shown}: it is text, a number or null, of at most {MAX_ID_BYTES} bytes", INVALID_REQUEST)


def _is_id(raw: bytes) -> bool:
    return 0 < len(raw) <= MAX_ID_BYTES and raw[:1] in b'"-0123456789n'
