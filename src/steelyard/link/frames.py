"""The frames of a link, and their bytes.

1. A WebSocket message is one msgpack array of frames; a frame is an array that begins with its number.
2. Each end decodes only the frames that it may receive, and before the handshake only those of the handshake.
3. A frame that decodes is well-formed: lengths, ranges and counts are within the law (`checks`).
4. All frames but those of the handshake, `Goodbye` and `Ack` are counted: both ends know the n-th by its place, so an
   acknowledgement is a number and nothing else needs one.

Law: docs/spec/link.md, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

from steelyard.errors import BadMessage
from steelyard.link.limits import MAX_FRAMES_PER_MESSAGE, MAX_SHOW_CHUNKS, SHOW_BYTES
from steelyard.link.port import (
    Bytes16,
    Bytes32,
    Bytes65,
    CallRequest,
    Failure,
    LaneClaim,
    LeafEntry,
    Piece,
    SignedOffer,
)
from steelyard.protocol.lanes import MAX_BATCH_CALLS, LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Receipt

VERSION = 1
MAX_OFFERS = 256
MAX_LANES = 4096

Bytes20 = Annotated[bytes, Meta(min_length=20, max_length=20)]
Count = Annotated[int, Meta(ge=0, le=2**48)]
SmallCount = Annotated[int, Meta(ge=0, le=2**16)]


class Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of all frames."""


class Hello(Frame, frozen=True, tag=1):
    """Node → gateway, first: its version, deployment (EIP-712 domain separator), account and nonce."""

    version: SmallCount
    deployment: Bytes32
    account: Bytes20
    nonce: Bytes32


class Welcome(Frame, frozen=True, tag=2):
    """Gateway → node: its account, nonce and signature over the handshake."""

    account: Bytes20
    nonce: Bytes32
    signature: Bytes65


class Proof(Frame, frozen=True, tag=3):
    """Node → gateway: its signature, the session it would continue (b"" for none), its bounds and its offers."""

    signature: Bytes65
    session: Annotated[bytes, Meta(max_length=16)]
    received: Count
    max_calls: SmallCount
    offers: Annotated[tuple[SignedOffer, ...], Meta(max_length=MAX_OFFERS)]


class Ready(Frame, frozen=True, tag=4):
    """Gateway → node: the session that is now on, how many frames of it were received, and for a new one the lanes."""

    session: Bytes16
    is_resumed: bool
    received: Count
    lanes: Annotated[tuple[LaneState, ...], Meta(max_length=MAX_LANES)]


class Goodbye(Frame, frozen=True, tag=5):
    """Either way, last: why the connection closes; `is_over` ends the session with it."""

    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=1024)]
    is_over: bool


class Ack(Frame, frozen=True, tag=6):
    """Either way: how many counted frames of this session were received."""

    received: Count


class Open(Frame, frozen=True, tag=7):
    """Gateway → node: a call; `pieces` may be sent before a grant, none if it doesn't stream."""

    request: CallRequest
    pieces: SmallCount


class Cancel(Frame, frozen=True, tag=8):
    """Gateway → node: stop a call."""

    call_id: Bytes16


class Grant(Frame, frozen=True, tag=9):
    """Gateway → node: so many more pieces of a stream."""

    call_id: Bytes16
    pieces: Annotated[int, Meta(ge=1, le=2**16)]


class Pay(Frame, frozen=True, tag=10):
    """Gateway → node: a voucher."""

    signed: SignedVoucher


class Want(Frame, frozen=True, tag=11):
    """Gateway → node: send the batches after this state again, with their leaves."""

    state: LaneState


class Part(Frame, frozen=True, tag=12):
    """Node → gateway: a piece of a stream."""

    call_id: Bytes16
    piece: Piece


class Done(Frame, frozen=True, tag=13):
    """Node → gateway: a call's receipt, with its only piece if it doesn't stream."""

    call_id: Bytes16
    receipt: Receipt
    piece: Piece | None


class Fail(Frame, frozen=True, tag=14):
    """Node → gateway: a call ended without a receipt."""

    call_id: Bytes16
    failure: Failure


class Chain(Frame, frozen=True, tag=15):
    """Node → gateway: a signed batch, its calls in the order of its leaves, and their leaf entries or none."""

    signed: SignedBatch
    call_ids: Annotated[tuple[Bytes16, ...], Meta(min_length=1, max_length=MAX_BATCH_CALLS)]
    entries: Annotated[tuple[LeafEntry, ...], Meta(max_length=MAX_BATCH_CALLS)]


class Claim(Frame, frozen=True, tag=16):
    """Node → gateway: a part of the history of a lane that the gateway doesn't know."""

    claim: LaneClaim


class Terms(Frame, frozen=True, tag=17):
    """Node → gateway: its offers have changed."""

    offers: Annotated[tuple[SignedOffer, ...], Meta(max_length=MAX_OFFERS)]


class Ask(Frame, frozen=True, tag=18):
    """Gateway → node: show the evidence that a receipt names."""

    receipt_hash: Bytes32


class Show(Frame, frozen=True, tag=19):
    """Node → gateway: a chunk of a receipt's evidence, from 0 on; without `found` there is none, nothing follows."""

    receipt_hash: Bytes32
    found: bool
    chunk_index: Annotated[int, Meta(ge=0, lt=MAX_SHOW_CHUNKS)]
    chunk_count: Annotated[int, Meta(ge=0, le=MAX_SHOW_CHUNKS)]
    data: Annotated[bytes, Meta(max_length=SHOW_BYTES)]


ToGatewayFirst = Hello | Proof | Goodbye
ToNodeFirst = Welcome | Ready | Goodbye
ToGateway = Ack | Part | Done | Fail | Chain | Claim | Terms | Show | Goodbye
ToNode = Ack | Open | Cancel | Grant | Pay | Want | Ask | Goodbye

_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


class FrameDecoder(Generic[T]):
    """Turns messages into frames of one direction; raises BadMessage for anything else."""

    __slots__ = ("_decode",)

    def __init__(self, frames: object) -> None:
        kind = Annotated[list[frames], Meta(min_length=1, max_length=MAX_FRAMES_PER_MESSAGE)]  # type: ignore[valid-type]
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def decode(self, message: bytes | memoryview) -> list[T]:
        """Return a message's frames (untrusted bytes); sizes of bytes, strings and arrays are within their bounds."""
        try:
            return self._decode(message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessage(f"a message of {len(message)} bytes is malformed: {error}") from error


def encode_frame(frame: Frame) -> bytes:
    """Return one frame's bytes; raises OverflowError for a number beyond 64 bits."""
    return _encoder.encode(frame)


def join_frames(frames: Sequence[bytes]) -> bytes:
    """Return the message that carries encoded frames, at most `MAX_FRAMES_PER_MESSAGE`."""
    count = len(frames)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(frames)
