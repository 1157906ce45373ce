"""Lies: two messages that one account signed and that can't both be true. Both halves prove it; no panel is needed.

lie           by        the two contradict each other when
------------  --------  --------------------------------------------------------------------------------------------
TwoReceipts   provider  one order and part, two receipts, each in a batch that the provider signed
TwoBatches    provider  one lane and number, two batches; or a later one with another previous head, or a lower total
TwoVouchers   gateway   one lane and count, or one head, with two meanings; or more calls for a lower total

1. What is found here the contract finds too: nobody is accused of what would not be proven, and no honest history holds
   a lie, however often it is sent again.
2. A lie's id is the contract's: it is proven once, whoever brings it and with whichever halves.

Pure. Law: docs/spec/contracts.md, section 8; contracts/src/Faults.sol.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec

from steelyard.errors import BadSignature
from steelyard.protocol.hashing import address_word, keccak, word
from steelyard.protocol.lanes import SignedBatch, SignedVoucher
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Receipt
from steelyard.protocol.signing import Domain, require_signer


class LieKind(IntEnum):
    """What was signed twice; the numbers are the contract's."""

    TWO_RECEIPTS = 0
    TWO_BATCHES = 1
    TWO_VOUCHERS = 2


class PlacedReceipt(msgspec.Struct, frozen=True, array_like=True):
    """A receipt, the signed batch that it stands in, and all of that batch's leaves (receipt ids, in order)."""

    signed: SignedBatch
    leaves: tuple[bytes, ...]
    receipt: Receipt

    def is_placed(self) -> bool:
        """Say whether the receipt truly stands in the batch."""
        return self.receipt.struct_hash() in self.leaves and merkle_root(self.leaves) == self.signed.batch.receipts_root


class _Lie(msgspec.Struct, frozen=True, array_like=True):
    kind: ClassVar[LieKind]

    @property
    def liar(self) -> bytes:
        """The account that signed both."""
        raise NotImplementedError

    @property
    def what(self) -> bytes:
        """What it lied about, 32 bytes."""
        raise NotImplementedError

    @property
    def id(self) -> bytes:
        """The 32 bytes under which the contract remembers that it was proven."""
        return keccak(word(self.kind) + address_word(self.liar) + self.what)


class TwoReceipts(_Lie, frozen=True, array_like=True, tag=0):
    """Two receipts for one order and part."""

    kind: ClassVar[LieKind] = LieKind.TWO_RECEIPTS
    one: PlacedReceipt
    other: PlacedReceipt

    @property
    def liar(self) -> bytes:
        """The provider."""
        return self.one.signed.batch.provider

    @property
    def what(self) -> bytes:
        """The order and its part."""
        return keccak(self.one.receipt.order_hash + word(self.one.receipt.part))


class TwoBatches(_Lie, frozen=True, array_like=True, tag=1):
    """Two batches of a lane, the one with the lower number first."""

    kind: ClassVar[LieKind] = LieKind.TWO_BATCHES
    one: SignedBatch
    other: SignedBatch

    @property
    def liar(self) -> bytes:
        """The provider."""
        return self.one.batch.provider

    @property
    def what(self) -> bytes:
        """The lane's key."""
        return self.one.batch.lane.key


class TwoVouchers(_Lie, frozen=True, array_like=True, tag=2):
    """Two vouchers of a lane, the one for fewer calls first."""

    kind: ClassVar[LieKind] = LieKind.TWO_VOUCHERS
    one: SignedVoucher
    other: SignedVoucher

    @property
    def liar(self) -> bytes:
        """The gateway."""
        return self.one.voucher.gateway

    @property
    def what(self) -> bytes:
        """The lane's key."""
        return self.one.voucher.lane.key


Lie = TwoReceipts | TwoBatches | TwoVouchers

encode_lie = msgspec.msgpack.Encoder().encode
decode_lie = msgspec.msgpack.Decoder(Lie).decode


def is_batch_signed(signed: SignedBatch, domain: Domain) -> bool:
    """Say whether a batch (untrusted, its fields in range) is its provider's."""
    return _is_signed(domain.digest(signed.batch.struct_hash()), signed.signature, signed.batch.provider)


def is_voucher_signed(signed: SignedVoucher, domain: Domain) -> bool:
    """Say whether a voucher (untrusted, its fields in range) is its gateway's."""
    return _is_signed(domain.digest(signed.voucher.struct_hash()), signed.signature, signed.voucher.gateway)


def find_two_receipts(one: PlacedReceipt, other: PlacedReceipt, domain: Domain) -> TwoReceipts | None:
    """Return the lie that two receipts (untrusted) prove, if they prove one."""
    first, second = one.receipt, other.receipt
    is_one_order = (first.order_hash, first.part) == (second.order_hash, second.part)
    is_one_provider = one.signed.batch.provider == other.signed.batch.provider
    if not is_one_order or not is_one_provider or first == second:
        return None
    if not all(half.is_placed() and is_batch_signed(half.signed, domain) for half in (one, other)):
        return None
    return TwoReceipts(one, other)


def find_two_batches(one: SignedBatch, other: SignedBatch, domain: Domain) -> TwoBatches | None:
    """Return the lie that two batches (untrusted) prove, if they prove one."""
    first, second = sorted((one, other), key=lambda signed: signed.batch.seq)
    a, b = first.batch, second.batch
    if a.lane != b.lane or a == b:
        return None
    is_lie = a.seq == b.seq or b.cumulative < a.cumulative
    if not is_lie and b.seq == a.seq + 1:
        is_lie = b.prev_head != domain.digest(a.struct_hash())
    if not is_lie or not (is_batch_signed(one, domain) and is_batch_signed(other, domain)):
        return None
    return TwoBatches(first, second)


def find_two_vouchers(one: SignedVoucher, other: SignedVoucher, domain: Domain) -> TwoVouchers | None:
    """Return the lie that two vouchers (untrusted) prove, if they prove one."""
    first, second = sorted((one, other), key=lambda signed: signed.voucher.count)
    a, b = first.voucher, second.voucher
    if a.lane != b.lane or a == b:
        return None
    if a.count != b.count and a.head != b.head and a.cumulative <= b.cumulative:
        return None
    if not (is_voucher_signed(one, domain) and is_voucher_signed(other, domain)):
        return None
    return TwoVouchers(first, second)


def _is_signed(digest: bytes, signature: bytes, account: bytes) -> bool:
    try:
        require_signer(digest, signature, account, "half of a lie")
    except BadSignature:
        return False
    return True
