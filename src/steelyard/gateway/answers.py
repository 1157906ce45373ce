"""Answers in OpenAI's shape: whole ones and streams, assembled from bytes that are made once for each call or seller.

1. The first chunk of a stream carries the role, the last but `[DONE]` the `steelyard` object; usage has a chunk of its
   own if it was asked for, and is then the last.
2. Content is decoded strictly: a provider that sends broken UTF-8, or vectors of a wrong size, broke the rules.
3. An answer that was cut ends in an `error` with ``finish_reason: "error"`` and without `[DONE]`.

Law: docs/spec/gateway.md, section 2.
"""

from __future__ import annotations

import binascii
import sys
from array import array
from collections.abc import Callable
from typing import Protocol

import msgspec

from steelyard.errors import BadMessage, SteelyardError
from steelyard.gateway.relay_shapes import RestShape, RpcShape, SubscribeShape
from steelyard.gateway.replies import error_object
from steelyard.link.port import Piece
from steelyard.protocol.messages import Receipt
from steelyard.services.port import Request

DONE = b"data: [DONE]\n\n"
FLOAT_BYTES = 4
CALL_MARK, PART_MARK = "\x1e", "\x1f"

_FINISH = (b'"stop"', b'"length"', b'"tool_calls"', b'"content_filter"', b'"stop"', b'"error"')

encode_json = msgspec.json.Encoder().encode


class Detail(msgspec.Struct, frozen=True):
    """What a kind may say of a piece beside its content. Log-probabilities are passed on as they came; that there are
    `tool_calls` only tells how to read the content, since nothing but the content is bound by the receipt.
    """

    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


_decode_detail = msgspec.json.Decoder(Detail).decode
_NO_DETAIL = Detail()
_NO_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class Shape(Protocol):
    """One API's way to write answers; one object for each call. `stamp` is the `steelyard` object as JSON."""

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        """Return the body of a whole answer."""

    def chunk(self, piece: Piece) -> bytes:
        """Return the events for one piece of a stream; b"" for a piece that shows nothing."""

    def end(self, receipt: Receipt, stamp: bytes) -> bytes:
        """Return the last events of a stream, `[DONE]` included."""

    def cut(self, error: SteelyardError) -> bytes:
        """Return the event that ends a stream which was cut; the stock client raises on it."""


def open_shape(request: Request, call_hex: bytes, model: bytes, created_s: int) -> Shape:
    """Return the writer for a request's API; `model` is a JSON string, `call_hex` names the answer."""
    return _SHAPES[request.api](request, call_hex, model, created_s)


def text_json(content: bytes) -> bytes:
    """Return content as a JSON string; raises BadMessage unless it is UTF-8."""
    try:
        return encode_json(content.decode())
    except UnicodeDecodeError as error:
        raise BadMessage(f"the answer is not UTF-8: {error.reason} at byte {error.start}") from error


def read_detail(piece: Piece) -> Detail:
    """Return a piece's detail; raises BadMessage for one that isn't a JSON object."""
    if not piece.detail:
        return _NO_DETAIL
    try:
        # A line break is legal between JSON's tokens, and would break out of a server-sent event.
        return _decode_detail(piece.detail.translate(_NO_BREAKS))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"the detail of a piece is malformed: {error}") from error


def split_calls(content: bytes) -> tuple[str, list[dict[str, object]]]:
    """Return the text before the tool calls in some content, and the calls in OpenAI's shape.

    Raises:
        BadMessage: not the form that docs/spec/kinds/chat.md, section 4, gives them.
    """
    try:
        text, *raw_calls = content.decode().split(CALL_MARK)
        calls: list[dict[str, object]] = []
        for raw in raw_calls:
            name_id, name, arguments = raw.split(PART_MARK, 2)
            calls.append({"id": name_id, "type": "function", "function": {"name": name, "arguments": arguments}})
    except ValueError as error:  # UnicodeDecodeError is one
        raise BadMessage("the tool calls in the answer's content can't be read") from error
    return text, calls


def usage_json(receipt: Receipt) -> bytes:
    """Return OpenAI's `usage` object for what a receipt bills."""
    units_in, units_out = receipt.units_in, receipt.units_out
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        units_in,
        units_out,
        units_in + units_out,
    )


_TAIL = b',"finish_reason":null}]}\n\n'
_TAIL_USAGE = b',"finish_reason":null}],"usage":null}\n\n'


class TextShape:
    """What chat and plain completions share: ids, the frame around a choice, usage, and how a stream ends."""

    __slots__ = ("_created", "_has_begun", "_id", "_tail", "_wants_usage")
    CHUNK_OBJECT = b""
    EMPTY_CHOICE = b""

    def __init__(self, id_prefix: bytes, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        self._id, self._created = id_prefix + call_hex, b'"created":%d,"model":%s' % (created_s, model)
        self._wants_usage = request.include_usage
        self._tail = _TAIL_USAGE if request.include_usage else _TAIL
        self._has_begun = False

    def _whole(self, object_name: bytes, choice: bytes, receipt: Receipt, stamp: bytes) -> bytes:
        return b'%s%s,"finish_reason":%s}],"usage":%s,"steelyard":%s}' % (
            self._head(object_name),
            choice,
            _FINISH[receipt.finish_reason],
            usage_json(receipt),
            stamp,
        )

    def _head(self, object_name: bytes) -> bytes:
        return b'{"id":"%s","object":"%s",%s,"choices":[{"index":0,' % (self._id, object_name, self._created)

    def _event(self, choice: bytes) -> bytes:
        return b"data: %s%s%s" % (self._head(self.CHUNK_OBJECT), choice, self._tail)

    def end(self, receipt: Receipt, stamp: bytes) -> bytes:
        head = self._head(self.CHUNK_OBJECT)
        finish = _FINISH[receipt.finish_reason]
        if not self._wants_usage:
            return b'data: %s%s,"finish_reason":%s}],"steelyard":%s}\n\n%s' % (
                head,
                self.EMPTY_CHOICE,
                finish,
                stamp,
                DONE,
            )
        return b'data: %s%s,"finish_reason":%s}],"usage":null}\n\ndata: %s],"usage":%s,"steelyard":%s}\n\n%s' % (
            head,
            self.EMPTY_CHOICE,
            finish,
            head.removesuffix(b'{"index":0,'),
            usage_json(receipt),
            stamp,
            DONE,
        )

    def cut(self, error: SteelyardError) -> bytes:
        return b'data: %s%s,"finish_reason":"error"}],"error":%s}\n\n' % (
            self._head(self.CHUNK_OBJECT),
            self.EMPTY_CHOICE,
            encode_json(error_object(error)),
        )


class ChatShape(TextShape):
    """`chat.completion` and its chunks."""

    __slots__ = ("_calls",)
    CHUNK_OBJECT = b"chat.completion.chunk"
    EMPTY_CHOICE = b'"delta":{},"logprobs":null'

    def __init__(self, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        super().__init__(b"chatcmpl-", request, call_hex, model, created_s)
        self._calls = 0

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        detail = read_detail(piece)
        if detail.tool_calls:
            text, calls = split_calls(piece.content)
            content = text_json(text.encode()) if text else b"null"
            message = b'%s,"refusal":null,"tool_calls":%s' % (content, encode_json(calls))
        else:
            message = text_json(piece.content) + b',"refusal":null'
        choice = b'"message":{"role":"assistant","content":%s},"logprobs":%s' % (message, bytes(detail.logprobs))
        return self._whole(b"chat.completion", choice, receipt, stamp)

    def chunk(self, piece: Piece) -> bytes:
        begin = b""
        if not self._has_begun:
            self._has_begun = True
            begin = self._event(b'"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null')
        if not piece.detail:
            if not piece.content:
                return begin
            return begin + self._event(b'"delta":{"content":%s},"logprobs":null' % text_json(piece.content))
        detail = read_detail(piece)
        if detail.tool_calls:
            delta = b'"tool_calls":' + encode_json(self._call_deltas(piece.content))
        else:
            delta = b'"content":' + text_json(piece.content)
        return begin + self._event(b'"delta":{%s},"logprobs":%s' % (delta, bytes(detail.logprobs)))

    def _call_deltas(self, content: bytes) -> list[dict[str, object]]:
        rest, calls = split_calls(content)
        deltas: list[dict[str, object]] = []
        if rest:
            deltas.append({"index": max(self._calls - 1, 0), "function": {"arguments": rest}})
        for call in calls:
            deltas.append({"index": self._calls, **call})
            self._calls += 1
        return deltas

    def end(self, receipt: Receipt, stamp: bytes) -> bytes:
        return self.chunk(Piece(b"", 0, 0)) + super().end(receipt, stamp)


class CompletionShape(TextShape):
    """`text_completion`, whole and in chunks."""

    __slots__ = ()
    CHUNK_OBJECT = b"text_completion"
    EMPTY_CHOICE = b'"text":"","logprobs":null'

    def __init__(self, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        super().__init__(b"cmpl-", request, call_hex, model, created_s)

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        return self._whole(b"text_completion", self._choice(piece), receipt, stamp)

    def chunk(self, piece: Piece) -> bytes:
        return self._event(self._choice(piece)) if piece.content or piece.detail else b""

    def _choice(self, piece: Piece) -> bytes:
        return b'"text":%s,"logprobs":%s' % (text_json(piece.content), bytes(read_detail(piece).logprobs))


class EmbeddingsShape:
    """The list of vectors: float32, little-endian, as many equal parts of the content as inputs were sent."""

    __slots__ = ("_count", "_is_base64", "_model")

    def __init__(self, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        self._count, self._is_base64, self._model = request.count, request.encoding == "base64", model

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        size, rest = divmod(len(piece.content), self._count)
        if rest or not size or size % FLOAT_BYTES:
            raise BadMessage(f"{len(piece.content)} bytes are no {self._count} equal vectors of float32")
        items = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%s}'
            % (i, self._vector(piece.content[i * size : (i + 1) * size]))
            for i in range(self._count)
        )
        return (
            b'{"object":"list","data":[%s],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d},"steelyard":%s}'
            % (
                items,
                self._model,
                receipt.units_in,
                receipt.units_in + receipt.units_out,
                stamp,
            )
        )

    def _vector(self, part: bytes) -> bytes:
        if self._is_base64:
            return b'"%s"' % binascii.b2a_base64(part, newline=False)
        floats = array("f", part)
        if sys.byteorder == "big":
            floats.byteswap()
        return encode_json(floats.tolist())

    def chunk(self, piece: Piece) -> bytes:
        raise BadMessage("embeddings don't stream")

    def end(self, receipt: Receipt, stamp: bytes) -> bytes:
        raise BadMessage("embeddings don't stream")

    def cut(self, error: SteelyardError) -> bytes:
        raise BadMessage("embeddings don't stream")


class ReplayShape:
    """A bought replay: the content as base64."""

    __slots__ = ("_head",)

    def __init__(self, request: Request, call_hex: bytes, model: bytes, created_s: int) -> None:
        self._head = b'{"id":"replay-%s","object":"steelyard.replay","created":%d,"model":%s' % (
            call_hex,
            created_s,
            model,
        )

    def whole(self, piece: Piece, receipt: Receipt, stamp: bytes) -> bytes:
        content = binascii.b2a_base64(piece.content, newline=False)
        return b'%s,"replay":"%s","usage":%s,"steelyard":%s}' % (self._head, content, usage_json(receipt), stamp)

    def chunk(self, piece: Piece) -> bytes:
        raise BadMessage("replays don't stream")

    def end(self, receipt: Receipt, stamp: bytes) -> bytes:
        raise BadMessage("replays don't stream")

    def cut(self, error: SteelyardError) -> bytes:
        raise BadMessage("replays don't stream")


_SHAPES: dict[str, Callable[[Request, bytes, bytes, int], Shape]] = {
    "chat.completions": ChatShape,
    "completions": CompletionShape,
    "embeddings": EmbeddingsShape,
    "replays": ReplayShape,
    "rpc": RpcShape,
    "rpc.subscribe": SubscribeShape,
    "rest": RestShape,
}
APIS = frozenset(_SHAPES)
