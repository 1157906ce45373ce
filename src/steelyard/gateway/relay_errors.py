"""JSON-RPC errors: what a relay's client is told, with the id of its own request kept byte for byte.

code     when                                                            HTTP status
-------  --------------------------------------------------------------  ------------------
-32700   the body is no JSON                                             200
-32600   an item is no request                                           200
-32601   the method is refused or unknown to the kind                    200
-32005   a limit: the key's rate, a batch, subscriptions, messages       429, 413; 200 for an item
-32002   nobody can serve it now, or the providers failed                503
-32603   a bug of ours                                                   500
-32000   everything else: no key (401), no money (402), no chain (404)   its own

`data` of an error has the stable `code` and `status` that the rest of the gateway answers with.

Source: jsonrpc.org/specification section 5.1; EIP-1474 for -32002 and -32005. Law: docs/spec/relay.md, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from steelyard.errors import Fault, Refusal, SteelyardError
from steelyard.gateway.replies import JSON_HEADER, Reply, error_reply
from steelyard.services.rpc.messages import MAX_ID_BYTES, MAX_ITEMS, BadRpc

LIMIT_EXCEEDED, UNAVAILABLE, INTERNAL_ERROR, REFUSED = -32005, -32002, -32603, -32000
NO_ID = b"null"

_BY_STATUS = {413: LIMIT_EXCEEDED, 429: LIMIT_EXCEEDED, 503: UNAVAILABLE}

_encode = msgspec.json.Encoder().encode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Id(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(NO_ID)


_decode_id = msgspec.json.Decoder(_Id).decode


def rpc_error(id_raw: bytes, code: int, message: str, data: dict[str, object] | None = None) -> bytes:
    """Return a JSON-RPC error object as JSON; `id_raw` is the request's id as it was sent."""
    error: dict[str, object] = {"code": code, "message": message}
    if data:
        error["data"] = data
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (id_raw, _encode(error))


def rpc_code(error: SteelyardError) -> int:
    """Return the JSON-RPC code for one of our own errors."""
    if isinstance(error, BadRpc):
        return error.rpc_code
    return INTERNAL_ERROR if isinstance(error, Fault) else _BY_STATUS.get(error.status, REFUSED)


def refusal_object(error: SteelyardError, id_raw: bytes) -> bytes:
    """Return the error object for one of our own errors; what JSON-RPC itself has a code for knows its id."""
    if isinstance(error, BadRpc):
        return rpc_error(error.id_raw or NO_ID, error.rpc_code, error.message, {"code": error.code})
    data: dict[str, object] = {"code": error.code, "status": error.status}
    if isinstance(error, Refusal) and error.retry_after_s is not None:
        data["retry_after_s"] = error.retry_after_s
    return rpc_error(id_raw, rpc_code(error), error.message, data)


def read_ids(body: bytes) -> tuple[list[bytes], bool]:
    """Return the ids of whatever requests can be told apart in a body, and whether it is a batch.

    A longer batch than any that is served is refused as one: an error for each item would be a hundred times its size.
    """
    try:
        if body.lstrip()[:1] != b"[":
            return [_id_of(body)], False
        raws = _split(body)
        return ([_id_of(raw) for raw in raws], True) if len(raws) <= MAX_ITEMS else ([], False)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return [], False


def _id_of(raw: bytes | msgspec.Raw) -> bytes:
    try:
        found = bytes(_decode_id(raw).id)
    except msgspec.ValidationError:
        return NO_ID
    return found if found[:1] not in (b"{", b"[", b"t", b"f") and len(found) <= MAX_ID_BYTES else NO_ID


def refusal_reply(error: SteelyardError, ids: Sequence[bytes], *, is_batch: bool) -> Reply:
    """Return the HTTP reply for an error that concerns a whole request: its own status, each id answered.

    What JSON-RPC itself has a code for is 200 and one object, as its world does.
    """
    if isinstance(error, BadRpc):
        return Reply(200, refusal_object(error, NO_ID))
    plain = error_reply(error)
    objects = [refusal_object(error, id_raw) for id_raw in ids or (NO_ID,)]
    body = b"[%s]" % b",".join(objects) if is_batch else objects[0]
    return Reply(plain.status, body, (JSON_HEADER, *(one for one in plain.headers if one != JSON_HEADER)))
