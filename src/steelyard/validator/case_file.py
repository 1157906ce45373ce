"""A case file: the blob behind a challenge, with everything that a panel needs to judge for itself.

1. It holds an unbroken run of the challenger's audited answers, passes included: who picked only the bad ones would be
   found out by the ledger, and the odds start lower the later the run begins.
2. Each answer opens by itself: the batch that its provider signed, the Merkle path, the texts, the evidence.
3. Bytes are untrusted: bounded, and refused with a reason.

Law: docs/spec/validator.md, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Order, Receipt
from steelyard.validator.gateway_client import ShownCall

VERSION = 1
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_ANSWERS = 256


class Material(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One audited answer with all that opens it; `receipts` are the batch's leaves."""

    order: Order
    receipt: Receipt
    signed: SignedBatch
    receipts: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=64)]
    call: ShownCall
    claimed: bytes


class CaseFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The file; `first` counts the challenger's audited answers on the pair before the run, plus one."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    provider: bytes
    service_id: bytes
    first: Annotated[int, msgspec.Meta(ge=1)]
    answers: Annotated[tuple[Material, ...], msgspec.Meta(min_length=1, max_length=MAX_ANSWERS)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CaseFile).decode
_decode_material = msgspec.msgpack.Decoder(Material).decode


def encode_material(material: Material) -> bytes:
    """Return one answer's bytes, as a validator keeps them."""
    return _encode(material)


def decode_material(blob: bytes) -> Material:
    """Return one answer from bytes that this validator kept itself."""
    return _decode_material(blob)


def encode_case(provider: bytes, service_id: bytes, first: int, materials: Sequence[bytes]) -> bytes:
    """Return the file of a run of answers, given by their bytes."""
    answers = tuple(_decode_material(material) for material in materials)
    return _encode(CaseFile(VERSION, provider, service_id, first, answers))


def decode_case(blob: bytes) -> CaseFile:
    """Return what a case file (untrusted) holds; raises BadMessage, saying what is wrong with its form."""
    if len(blob) > MAX_FILE_BYTES:
        raise BadMessage(f"a case file has at most {MAX_FILE_BYTES} bytes, this one {len(blob)}")
    try:
        case = _decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"this is no case file: {error}") from error
    if len(case.provider) != 20 or len(case.service_id) != 32:
        raise BadMessage("the case file names no account or no service")
    seen = set()
    for answer in case.answers:
        answer.order.check_fields()
        answer.receipt.check_fields()
        answer.signed.batch.check_fields()
        if any(len(item) != 32 for item in answer.receipts):
            raise BadMessage("the case file holds a leaf that is no hash")
        if (answer.order.provider, answer.order.service_id) != (case.provider, case.service_id):
            raise BadMessage("the case file holds an answer of another provider or service")
        seen.add(answer.receipt.struct_hash())
    if len(seen) != len(case.answers):
        raise BadMessage("the case file holds an answer twice")
    return case
