"""What contradicts what: exactly the pairs that the contract takes, and never an honest history."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from steelyard.protocol.hashing import address_word, keccak, word
from steelyard.protocol.lanes import SignedBatch, SignedVoucher
from steelyard.protocol.lies import (
    PlacedReceipt,
    decode_lie,
    encode_lie,
    find_two_batches,
    find_two_receipts,
    find_two_vouchers,
)
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Batch, Receipt, Voucher
from steelyard.protocol.signing import Domain, SigningKey

DOMAIN = Domain(31415, b"\x05" * 32)
GATEWAY, PROVIDER, STRANGER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
LANE = (GATEWAY.account, PROVIDER.account, b"\x07" * 32, 9)
RECEIPT = Receipt(keccak(b"order"), 0, keccak(b"response"), b"\x00" * 32, 3, 4, 1_000, 1, 2, 0)


def sign_batch(batch: Batch, key: SigningKey = PROVIDER) -> SignedBatch:
    """Sign a batch, as its provider."""
    return SignedBatch(batch, key.sign(DOMAIN.digest(batch.struct_hash())))


def sign_voucher(voucher: Voucher, key: SigningKey = GATEWAY) -> SignedVoucher:
    """Sign a voucher, as its gateway."""
    return SignedVoucher(voucher, key.sign(DOMAIN.digest(voucher.struct_hash())))


def place(receipt: Receipt, *beside: Receipt, seq: int = 1, key: SigningKey = PROVIDER) -> PlacedReceipt:
    """Put a receipt into a signed batch of its own."""
    leaves = tuple(each.struct_hash() for each in (receipt, *beside))
    batch = Batch(*LANE, seq, b"\x00" * 32, merkle_root(leaves), len(leaves), receipt.cost)
    return PlacedReceipt(sign_batch(batch, key), leaves, receipt)


def two_batches(key: SigningKey = PROVIDER, **changes: Any) -> tuple[SignedBatch, SignedBatch]:
    """Return a batch and one that follows it but for `changes`."""
    first = Batch(*LANE, 4, keccak(b"third"), keccak(b"root"), 1, 100)
    second = Batch(*LANE, 5, DOMAIN.digest(first.struct_hash()), keccak(b"root"), 1, 200)
    return sign_batch(first), sign_batch(msgspec.structs.replace(second, **changes), key)


def two_vouchers(key: SigningKey = GATEWAY, **changes: Any) -> tuple[SignedVoucher, SignedVoucher]:
    """Return a voucher and one that may follow it but for `changes`."""
    first = Voucher(*LANE, cumulative=100, count=5, head=keccak(b"five"))
    second = Voucher(*LANE, cumulative=200, count=6, head=keccak(b"six"))
    return sign_voucher(first), sign_voucher(msgspec.structs.replace(second, **changes), key)


@pytest.mark.parametrize("field", [name for name in Receipt.__struct_fields__ if name not in ("order_hash", "part")])
def test_two_receipts_of_one_order_that_differ_anywhere_are_a_lie(field: str) -> None:
    """Any field is enough; the lie survives its way through the database, and its id is the contract's."""
    value = getattr(RECEIPT, field)
    other = msgspec.structs.replace(RECEIPT, **{field: value + 1 if isinstance(value, int) else keccak(value)})
    beside = msgspec.structs.replace(RECEIPT, order_hash=keccak(b"beside"))
    lie = find_two_receipts(place(RECEIPT), place(other, beside, seq=2), DOMAIN)
    assert lie is not None
    assert decode_lie(encode_lie(lie)) == lie
    what = keccak(RECEIPT.order_hash + word(0))
    assert lie.liar == PROVIDER.account
    assert lie.id == keccak(word(0) + address_word(PROVIDER.account) + what)


def test_two_receipts_that_prove_nothing_are_none() -> None:
    """The same receipt twice, another order or part, another signer, and a receipt that isn't in its batch."""
    other = msgspec.structs.replace(RECEIPT, cost=1_001)
    one = place(RECEIPT)
    for half in (
        place(RECEIPT, seq=2),
        place(msgspec.structs.replace(other, part=1)),
        place(msgspec.structs.replace(other, order_hash=keccak(b"other"))),
        place(other, key=STRANGER),
        msgspec.structs.replace(place(RECEIPT, seq=2), receipt=other),
        msgspec.structs.replace(place(other), leaves=(other.struct_hash(), RECEIPT.struct_hash())),
    ):
        assert find_two_receipts(one, half, DOMAIN) is None
        assert find_two_receipts(half, one, DOMAIN) is None


@pytest.mark.parametrize(
    "change", [{"seq": 4}, {"prev_head": keccak(b"other")}, {"cumulative": 99}, {"seq": 9, "cumulative": 99}]
)
def test_batches_that_cannot_both_be_are_a_lie(change: dict[str, Any]) -> None:
    """One number, another previous head, a lower total; whichever way round they come."""
    one, other = two_batches(**change)
    lie = find_two_batches(other, one, DOMAIN)
    assert lie is not None
    assert lie == find_two_batches(one, other, DOMAIN) or change == {"seq": 4}
    assert lie.one.batch.seq <= lie.other.batch.seq
    assert decode_lie(encode_lie(lie)) == lie
    assert lie.id == keccak(word(1) + address_word(PROVIDER.account) + one.batch.lane.key)


@pytest.mark.parametrize(
    "change",
    [{}, {"seq": 6, "prev_head": keccak(b"fifth")}, {"cumulative": 100}, {"lane_id": 8, "seq": 4}],
)
def test_batches_that_can_both_be_are_none(change: dict[str, Any]) -> None:
    """The next one, one further on, one that cost nothing, one of another lane; the same one twice; a forged one."""
    one, other = two_batches(**change)
    assert find_two_batches(one, other, DOMAIN) is None
    assert find_two_batches(one, one, DOMAIN) is None
    assert find_two_batches(*two_batches(STRANGER, seq=4), DOMAIN) is None


@pytest.mark.parametrize(
    "change",
    [{"cumulative": 99}, {"count": 5}, {"count": 5, "cumulative": 100}, {"head": keccak(b"five")}],
)
def test_vouchers_that_cannot_both_be_are_a_lie(change: dict[str, Any]) -> None:
    """More calls for less, one count or one head with two meanings."""
    one, other = two_vouchers(**change)
    lie = find_two_vouchers(other, one, DOMAIN)
    assert lie is not None
    assert lie.one.voucher.count <= lie.other.voucher.count
    assert decode_lie(encode_lie(lie)) == lie
    assert lie.id == keccak(word(2) + address_word(GATEWAY.account) + one.voucher.lane.key)


@pytest.mark.parametrize("change", [{}, {"cumulative": 100}, {"lane_id": 8, "count": 5}])
def test_vouchers_that_can_both_be_are_none(change: dict[str, Any]) -> None:
    """A later one, one for calls that cost nothing, one of another lane; the same one twice; a forged one."""
    one, other = two_vouchers(**change)
    assert find_two_vouchers(one, other, DOMAIN) is None
    assert find_two_vouchers(one, one, DOMAIN) is None
    assert find_two_vouchers(*two_vouchers(STRANGER, count=5), DOMAIN) is None
