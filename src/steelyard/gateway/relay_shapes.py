"""The relay's answers are the provider's own bytes: checked for being answers at all, and handed on.

1. `rpc`: one JSON object, or a list of them, with the ids of the request, in its order. A provider that sends something
   else broke the rules: nothing is paid. Its node's own failure in an answer's clothes is paid and not shown.
2. `rpc.subscribe`: each piece is one notification's result and a line break, or nothing (the subscription stands).
3. `rest`: one line with status and content type, and the body.

Law: docs/spec/relay.md; docs/spec/kinds/rpc.md, docs/spec/kinds/rest.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from steelyard.errors import BadMessage, SteelyardError
from steelyard.gateway.receipt_check import NoAnswer
from steelyard.link.port import Piece
from steelyard.protocol.messages import Receipt
from steelyard.services.port import Request
from steelyard.services.rest.requests import read_answer

if TYPE_CHECKING:
    from steelyard.gateway.relay_plan import Plan
from steelyard.services.rpc.blame import blame_node


class Answered(msgspec.Struct):
    """One item of an answer: whose it is, and what came."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


_decode_one = msgspec.json.Decoder(Answered).decode
_decode_many = msgspec.json.Decoder(list[Answered]).decode
_split_many = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_answered(content: bytes, *, is_batch: bool) -> list[Answered]:
    """Return the items of an answer; raises BadMessage for what is no JSON-RPC answer."""
    try:
        return _decode_many(content) if is_batch else [_decode_one(content)]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"the answer is no JSON-RPC: {str(error)[:200]}") from error


def split_batch(content: bytes) -> list[bytes]:
    """Return the items of a batch's answer as they came."""
    return [bytes(one) for one in _split_many(content)]


class RelayShape:
    """What the relay's shapes share: whatever comes whole or in pieces is raw, and has no frame around it."""

    __slots__ = ("_request",)

    def __init__(self, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        self._request = request

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        raise BadMessage(f"{self._request.api} answers in a stream")

    def chunk(self, piece: Piece) -> bytes:
        raise BadMessage(f"{self._request.api} doesn't stream")

    def end(self, receipt: Receipt, stamp: bytes) -> bytes:
        return b""

    def cut(self, error: SteelyardError) -> bytes:
        return b""


class RpcShape(RelayShape):
    """A whole JSON-RPC answer; `plan` is what it is part of, where the call was begun below ASGI."""

    __slots__ = ("plan",)

    def __init__(self, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        super().__init__(request, call_hex, model, created_s)
        self.plan: Plan | None = None

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        payload = self._request.payload
        if not piece.content and not any(one.id_raw for one in payload.items):
            return b""
        answered = read_answered(piece.content, is_batch=payload.is_batch)
        if [bytes(one.id) for one in answered] != [one.id_raw for one in payload.items if one.id_raw]:
            raise BadMessage("the answer's ids are not those of the request, in its order")
        if any(bool(one.result) == bool(one.error) for one in answered):
            raise BadMessage("an answer has neither a result nor an error, or both")
        for one in answered:
            if one.error and (blame := blame_node(bytes(one.error))):
                raise NoAnswer(blame)
        return piece.content


class SubscribeShape(RelayShape):
    """The results of a subscription, one a piece."""

    __slots__ = ()

    def chunk(self, piece: Piece) -> bytes:
        content = piece.content
        if content and content[-1:] != b"\n":
            raise BadMessage("a notification does not end in a line break")
        return content[:-1]


class RestShape(RelayShape):
    """A whole answer over plain HTTP."""

    __slots__ = ()

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        try:
            read_answer(piece.content)
        except ValueError as error:
            raise BadMessage(str(error)) from error
        return piece.content
