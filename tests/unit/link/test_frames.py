"""Frames: what decodes, what doesn't, and that the fast checks agree with the law."""

from __future__ import annotations

import os

import msgspec
import pytest
from tests.link_world import LANE, build_order, build_receipt

from steelyard.errors import BadMessage
from steelyard.link.checks import check_chain, check_claim, check_order, check_receipt, check_signed_batch
from steelyard.link.frames import (
    Ack,
    Cancel,
    Chain,
    Claim,
    Done,
    FrameDecoder,
    Grant,
    Open,
    Part,
    ToGateway,
    ToNode,
    encode_frame,
    join_frames,
)
from steelyard.link.limits import MAX_FRAMES_PER_MESSAGE
from steelyard.link.port import CallRequest, LaneClaim, LeafEntry, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Batch, Message

ORDER = build_order(b"\x01" * 16, 10**13)
RECEIPT = build_receipt(ORDER)
BATCH = Batch(LANE.gateway, LANE.provider, LANE.service_id, LANE.lane_id, 1, ZERO32, ZERO32, 1, 5)
ENTRY = LeafEntry(ORDER, b"\x00" * 16, RECEIPT)


def _decode(*frames: bytes) -> list[object]:
    return FrameDecoder[object](ToGateway).decode(join_frames(frames))


@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_frames_joined_come_back_in_order(count: int) -> None:
    """One message carries as many frames as a turn of the loop made."""
    frames = [Ack(number) for number in range(count)]
    assert _decode(*[encode_frame(frame) for frame in frames]) == frames


def test_frames_with_every_field_come_back_equal() -> None:
    """What is encoded is what is decoded, for the frames of the hot path."""
    done = Done(ORDER.call_id, RECEIPT, Piece(b"content", 1, 2, b"{}"))
    chain = Chain(SignedBatch(BATCH, b"\x00" * 65), (ORDER.call_id,), (ENTRY,))
    assert _decode(encode_frame(done), encode_frame(chain)) == [done, chain]
    call = Open(CallRequest(ORDER, b"\x00" * 16, b"\x00" * 32, "chat.completions", b"{}"), 64)
    assert FrameDecoder[object](ToNode).decode(join_frames([encode_frame(call)])) == [call]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x90",
        b"\xc0",
        b"\x91",
        b"\x91\x91\x63",
        b"\x91\x92\x06\xff",
        b"\x91\x93\x06\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 20_000,
        join_frames([encode_frame(Cancel(b"\x01" * 16))]),
        join_frames([encode_frame(Cancel(b"\x01" * 15))]),
        join_frames([encode_frame(Ack(-1))]),
        join_frames([encode_frame(Ack(1))]) + b"\x00",
        b"\xdc" + (MAX_FRAMES_PER_MESSAGE + 1).to_bytes(2, "big") + encode_frame(Ack(1)) * (MAX_FRAMES_PER_MESSAGE + 1),
    ],
)
def test_message_that_is_no_frames_for_us_is_refused(message: bytes) -> None:
    """Empty, cut, unknown, too many, another direction's, out of range: always BadMessage, never anything else."""
    with pytest.raises(BadMessage):
        FrameDecoder[object](ToGateway).decode(message)


def test_frame_lengths_are_bounded_by_their_types() -> None:
    """A call id is 16 bytes, a grant at least one piece, a text short."""
    bad = [
        encode_frame(Part(b"\x01" * 17, Piece(b"", 0, 0))),
        encode_frame(Part(b"\x01" * 16, Piece(b"", -1, 0))),
        encode_frame(Chain(SignedBatch(BATCH, b"\x00" * 65), (), ())),
        encode_frame(Chain(SignedBatch(BATCH, b"\x00" * 65), (b"\x01" * 16,) * 65, ())),
    ]
    for frame in bad:
        with pytest.raises(BadMessage):
            _decode(frame)
    with pytest.raises(BadMessage):
        FrameDecoder[object](ToNode).decode(join_frames([encode_frame(Grant(b"\x01" * 16, 0))]))


def _mutants(message: Message) -> list[Message]:
    mutants = []
    for name in message.__struct_fields__:
        value = getattr(message, name)
        values = [value + b"\x00", value[:-1], b""] if isinstance(value, bytes) else [-1, 2**64 - 1]
        mutants += [msgspec.structs.replace(message, **{name: wrong}) for wrong in values]
    return mutants


def _is_refused(check: object, message: object) -> bool:
    try:
        check(message)  # type: ignore[operator]
    except BadMessage:
        return True
    return False


def test_fast_checks_agree_with_the_messages_own() -> None:
    """For each field too long, too short, negative or huge, the written-out check says what `check_fields` says."""
    for message, check in ((ORDER, check_order), (RECEIPT, check_receipt)):
        assert not _is_refused(check, message)
        for mutant in _mutants(message):
            assert _is_refused(check, mutant) == _is_refused(type(mutant).check_fields, mutant), mutant
    for mutant in _mutants(BATCH):
        if mutant.seq and mutant.count:  # type: ignore[attr-defined]
            expected = _is_refused(type(mutant).check_fields, mutant)
            assert _is_refused(check_signed_batch, SignedBatch(mutant, b"\x00" * 65)) == expected, mutant  # type: ignore[arg-type]


def test_batch_whose_parts_differ_is_refused() -> None:
    """Call ids, leaf entries and the count belong together."""
    signed = SignedBatch(BATCH, b"\x00" * 65)
    check_chain(Chain(signed, (ORDER.call_id,), (ENTRY,)))
    check_chain(Chain(signed, (ORDER.call_id,), ()))
    for call_ids, entries in (
        ((ORDER.call_id, b"\x02" * 16), ()),
        ((b"\x02" * 16,), (ENTRY,)),
        ((ORDER.call_id,), (ENTRY, ENTRY)),
    ):
        with pytest.raises(BadMessage):
            check_chain(Chain(signed, call_ids, entries))


def test_claim_whose_parts_differ_is_refused() -> None:
    """Every batch of a claim is of its lane and comes with its entries."""
    signed = SignedBatch(BATCH, b"\x00" * 65)
    check_claim(Claim(LaneClaim(LANE, (signed,), ((ENTRY,),), None)))
    other = msgspec.structs.replace(LANE, lane_id=8)
    for claim in (
        LaneClaim(LANE, (signed,), (), None),
        LaneClaim(LANE, (signed,), ((),), None),
        LaneClaim(other, (signed,), ((ENTRY,),), None),
    ):
        with pytest.raises(BadMessage):
            check_claim(Claim(claim))


def test_decoder_survives_random_bytes() -> None:
    """A thousand random messages are refused or decoded, nothing else."""
    decoder = FrameDecoder[object](ToGateway)
    for size in range(1000):
        message = os.urandom(size % 97)
        assert _is_refused(decoder.decode, message) or decoder.decode(message)
