"""The messages of the loop: what is signed by EIP-712, and what is only hashed into it.

1. Signed: Offer, Batch, Voucher, Verdict, Challenge, Handshake. Hashed: Order, Receipt.
2. Amounts are integers, in nano (10^-9 YARD); prices are nano per 1,000,000 units; times are Unix milliseconds.
3. Accounts are 20 bytes, hashes 32, a call id 16. Constructors don't validate, decoding and `check_fields` do.
4. Nothing here reads a clock, a socket or a file.

Law: docs/spec/messages.md.  Vectors: tests/vectors/messages.json, shared with the contracts.
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from functools import cache
from typing import Any, ClassVar

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.hashing import ZERO32, keccak

TAG_BYTES = 16
TAG_PURPOSE = "steelyard/order-tag/1"
MAX_UINT64 = 2**64 - 1
MAX_UINT128 = 2**128 - 1

_PAD12 = b"\x00" * 12
_PAD16 = b"\x00" * 16


class Grade(IntEnum):
    """How a result can be checked; what a check can't prove is never called proven."""

    UNCHECKED = 0
    LOGPROBS = 1
    STATISTICAL = 2
    CONSENSUS = 3
    EXACT = 4
    PROOF = 5
    PEER_CHECKED = 6


class FinishReason(IntEnum):
    """Why a result ended; CANCELLED and ERROR are cut answers, billable for what arrived."""

    STOP = 0
    LENGTH = 1
    TOOL_CALLS = 2
    CONTENT_FILTER = 3
    CANCELLED = 4
    ERROR = 5


class Outcome(IntEnum):
    """A verdict's word."""

    PASS = 0
    FAIL = 1
    ABSTAIN = 2


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: travels as a msgpack array of its fields, hashes as an EIP-712 struct.

    `TYPE` is the EIP-712 type string; the fields stand in its order.
    """

    TYPE: ClassVar[str] = ""
    TYPE_HASH: ClassVar[bytes] = ZERO32

    def struct_hash(self) -> bytes:
        """Return the 32-byte EIP-712 struct hash, from the type string alone (each message has a faster twin)."""
        words = [self.TYPE_HASH]
        for kind, name in type(self).fields():
            words.append(_encode_word(kind, getattr(self, name), name))
        return keccak(b"".join(words))

    @classmethod
    @cache
    def fields(cls) -> tuple[tuple[str, str], ...]:
        """Return (Solidity type, camelCase name → snake_case attribute) pairs in hashing order."""
        inside = cls.TYPE[cls.TYPE.index("(") + 1 : -1]
        pairs = [part.split(" ") for part in inside.split(",")]
        return tuple((kind, attribute) for (kind, _), attribute in zip(pairs, cls.__struct_fields__, strict=True))

    def check_fields(self) -> None:
        """Refuse a message whose field lies outside its Solidity type; what came off a wire passes here once.

        Raises:
            BadMessage: a length or a range is wrong; names the field.
        """
        for kind, name in type(self).fields():
            _encode_word(kind, getattr(self, name), name)


def _encode_word(kind: str, value: Any, name: str) -> bytes:
    if kind.startswith("uint"):
        bits = int(kind[4:])
        if not isinstance(value, int) or not 0 <= value < 1 << bits:
            raise BadMessage(f"{name} is {value!r}, outside {kind}")
        return value.to_bytes(32, "big")
    size = 20 if kind == "address" else int(kind[5:])
    if not isinstance(value, bytes) or len(value) != size:
        raise BadMessage(f"{name} is {value!r}, not {size} bytes")
    return _PAD12 + value if kind == "address" else value.ljust(32, b"\x00")


class Lane(msgspec.Struct, frozen=True, array_like=True):
    """One payer's line of credit with one provider for one service, owned by exactly one gateway process."""

    gateway: bytes
    provider: bytes
    service_id: bytes
    lane_id: int

    @property
    def key(self) -> bytes:
        """The 32-byte key that the escrow keeps the lane's totals under."""
        return keccak(
            _PAD12 + self.gateway + _PAD12 + self.provider + self.service_id + self.lane_id.to_bytes(32, "big")
        )


class Offer(Message, frozen=True):
    """A provider's terms for a service, posted to the registry; `manifest` zero withdraws it.

    Prices are nano per 1,000,000 units; `seq` rises with every new offer of the same provider and service.
    """

    TYPE: ClassVar[str] = (
        "Offer(address provider,bytes32 serviceId,uint64 priceIn,uint64 priceOut,uint8 grade,bytes32 manifest,"
        "uint64 seq)"
    )
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    provider: bytes
    service_id: bytes
    price_in: int
    price_out: int
    grade: int
    manifest: bytes
    seq: int


class Batch(Message, frozen=True):
    """What a provider signs for up to 64 receipts; its digest is the lane's new head.

    `count` is this batch's, `cumulative` (nano) the lane's; `prev_head` is zero for the first.
    """

    TYPE: ClassVar[str] = (
        "Batch(address gateway,address provider,bytes32 serviceId,uint64 laneId,uint64 seq,bytes32 prevHead,"
        "bytes32 receiptsRoot,uint32 count,uint128 cumulative)"
    )
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    gateway: bytes
    provider: bytes
    service_id: bytes
    lane_id: int
    seq: int
    prev_head: bytes
    receipts_root: bytes
    count: int
    cumulative: int

    @property
    def lane(self) -> Lane:
        """The lane that it extends."""
        return Lane(self.gateway, self.provider, self.service_id, self.lane_id)


class Voucher(Message, frozen=True):
    """A gateway's promise: `cumulative` nano for all `count` calls of a lane up to `head`; never lower than before."""

    TYPE: ClassVar[str] = (
        "Voucher(address gateway,address provider,bytes32 serviceId,uint64 laneId,uint128 cumulative,uint64 count,"
        "bytes32 head)"
    )
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    gateway: bytes
    provider: bytes
    service_id: bytes
    lane_id: int
    cumulative: int
    count: int
    head: bytes

    @property
    def lane(self) -> Lane:
        """The lane that it pays."""
        return Lane(self.gateway, self.provider, self.service_id, self.lane_id)


class Verdict(Message, frozen=True):
    """A validator's word on one receipt: an `Outcome`, and the hash of the evidence that it looked at."""

    TYPE: ClassVar[str] = "Verdict(address validator,bytes32 receipt,uint8 outcome,bytes32 evidence,uint64 epoch)"
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    validator: bytes
    receipt: bytes
    outcome: int
    evidence: bytes
    epoch: int


class Challenge(Message, frozen=True):
    """A bonded claim that a provider cheats at a service, with the hash of the evidence blob."""

    TYPE: ClassVar[str] = (
        "Challenge(address challenger,address provider,bytes32 serviceId,bytes32 evidence,uint64 epoch)"
    )
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    challenger: bytes
    provider: bytes
    service_id: bytes
    evidence: bytes
    epoch: int


class Handshake(Message, frozen=True):
    """What each end of a link signs: who it is, whom it means, both nonces and the TLS channel (zero on loopback)."""

    TYPE: ClassVar[str] = "Handshake(address signer,address peer,bytes32 ownNonce,bytes32 peerNonce,bytes32 channel)"
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    signer: bytes
    peer: bytes
    own_nonce: bytes
    peer_nonce: bytes
    channel: bytes


class Order(Message, frozen=True):
    """What a gateway asks a provider for, with price and grade pinned; not signed: its tag and the voucher bind it.

    `request_hash` is keccak(salt || body); `prefix_hash` is zero or names a prefix to continue from.
    """

    TYPE: ClassVar[str] = (
        "Order(bytes16 callId,address gateway,address provider,bytes32 serviceId,uint64 laneId,bytes32 requestHash,"
        "bytes32 prefixHash,uint64 samplerSeed,uint8 grade,uint64 priceIn,uint64 priceOut,uint128 maxCost,"
        "uint64 deadlineMs)"
    )
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    call_id: bytes
    gateway: bytes
    provider: bytes
    service_id: bytes
    lane_id: int
    request_hash: bytes
    prefix_hash: bytes
    sampler_seed: int
    grade: int
    price_in: int
    price_out: int
    max_cost: int
    deadline_ms: int

    @property
    def lane(self) -> Lane:
        """The lane that pays for it."""
        return Lane(self.gateway, self.provider, self.service_id, self.lane_id)

    def struct_hash(self) -> bytes:
        """Return the order hash; written out, it stands on the hot path."""
        return keccak(
            b"".join(
                (
                    self.TYPE_HASH,
                    self.call_id,
                    _PAD16,
                    _PAD12,
                    self.gateway,
                    _PAD12,
                    self.provider,
                    self.service_id,
                    self.lane_id.to_bytes(32, "big"),
                    self.request_hash,
                    self.prefix_hash,
                    self.sampler_seed.to_bytes(32, "big"),
                    self.grade.to_bytes(32, "big"),
                    self.price_in.to_bytes(32, "big"),
                    self.price_out.to_bytes(32, "big"),
                    self.max_cost.to_bytes(32, "big"),
                    self.deadline_ms.to_bytes(32, "big"),
                )
            )
        )


class Receipt(Message, frozen=True):
    """What a provider says it did for an order; paid once it stands in a signed batch.

    `response_hash` is keccak(salt || content bytes) whatever the chunking; `evidence_hash` is zero where none is kept.
    """

    TYPE: ClassVar[str] = (
        "Receipt(bytes32 orderHash,uint32 part,bytes32 responseHash,bytes32 evidenceHash,uint64 unitsIn,"
        "uint64 unitsOut,uint128 cost,uint64 startedMs,uint64 finishedMs,uint8 finishReason)"
    )
    TYPE_HASH: ClassVar[bytes] = keccak(TYPE.encode())
    order_hash: bytes
    part: int
    response_hash: bytes
    evidence_hash: bytes
    units_in: int
    units_out: int
    cost: int
    started_ms: int
    finished_ms: int
    finish_reason: int

    def struct_hash(self) -> bytes:
        """Return the receipt's id; written out, it stands on the hot path."""
        return keccak(
            b"".join(
                (
                    self.TYPE_HASH,
                    self.order_hash,
                    self.part.to_bytes(32, "big"),
                    self.response_hash,
                    self.evidence_hash,
                    self.units_in.to_bytes(32, "big"),
                    self.units_out.to_bytes(32, "big"),
                    self.cost.to_bytes(32, "big"),
                    self.started_ms.to_bytes(32, "big"),
                    self.finished_ms.to_bytes(32, "big"),
                    self.finish_reason.to_bytes(32, "big"),
                )
            )
        )


SIGNED_MESSAGES: tuple[type[Message], ...] = (Offer, Batch, Voucher, Verdict, Challenge, Handshake)
HASHED_MESSAGES: tuple[type[Message], ...] = (Order, Receipt)


def content_hash(salt: bytes, content: bytes) -> bytes:
    """Return the salted hash of a request body or of a response's content (salt: 32 bytes, drawn per call)."""
    return keccak(salt + content)


def order_tag(secret: bytes, order_hash: bytes) -> bytes:
    """Return the 16-byte tag by which a gateway knows its own order again after losing its memory.

    Args:
        secret: 32 bytes, `SigningKey.derive_secret(TAG_PURPOSE)`. order_hash: 32 bytes.
    """
    return hmac.digest(secret, order_hash, "sha256")[:TAG_BYTES]


def is_own_tag(secret: bytes, order_hash: bytes, tag: bytes) -> bool:
    """Say in constant time whether a tag is this gateway's for the order."""
    return hmac.compare_digest(order_tag(secret, order_hash), tag)
