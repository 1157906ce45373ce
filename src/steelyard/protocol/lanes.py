"""The two sides of a lane: how receipts become batches and heads, and batches become vouchers.

A lane's life is a chain of batches. The provider extends it, the gateway follows it and signs vouchers for what it saw.

state            event                  next state                   refused when
---------------  ---------------------  ---------------------------  -----------------------------------------------
seq, head, sum   provider adds a batch  seq+1, its digest, sum+cost  -
seq, head, sum   gateway sees a batch   seq+1, its digest, sum+cost  wrong seq, head, root, count, sum or signature
signed           gateway signs          signed = sum                 never: a total is cumulative for ever
signed           provider gets voucher  signed = its cumulative      lower total, a head it never sent, wrong signer

Pure: nothing is stored or sent here; the caller writes the new state before anything leaves the process.

Law: docs/spec/money.md, section 3.  Vectors: tests/vectors/lanes.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from steelyard.errors import BadTotal
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Batch, Lane, Voucher
from steelyard.protocol.signing import Domain, SigningKey, require_signer

MAX_BATCH_CALLS = 64
MAX_BATCH_DELAY_S = 0.25


class LaneState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a lane has come: `seq` batches, `count` calls and `cumulative` nano under `head`."""

    lane: Lane
    seq: int = 0
    head: bytes = ZERO32
    count: int = 0
    cumulative: int = 0


class SignedBatch(msgspec.Struct, frozen=True, array_like=True):
    """A batch, its provider's signature, and nothing else."""

    batch: Batch
    signature: bytes


class SignedVoucher(msgspec.Struct, frozen=True, array_like=True):
    """A voucher and its gateway's signature."""

    voucher: Voucher
    signature: bytes


def extend_lane(
    state: LaneState, receipt_ids: Sequence[bytes], costs: Sequence[int], key: SigningKey, domain: Domain
) -> tuple[LaneState, SignedBatch]:
    """Sign the next batch of a lane, as its provider.

    Args:
        state: where the lane stands. receipt_ids: 32 bytes each, 1 to 64. costs: nano, one for each receipt.

    Raises:
        ValueError: no receipt, too many, counts that differ, or a key that isn't the lane's provider.
    """
    if not 1 <= len(receipt_ids) <= MAX_BATCH_CALLS or len(receipt_ids) != len(costs):
        raise ValueError(f"a batch has 1 to {MAX_BATCH_CALLS} receipts with a cost each, not {len(receipt_ids)}")
    if key.account != state.lane.provider:
        raise ValueError("only the lane's provider extends it")
    batch = Batch(
        *_lane_fields(state.lane),
        seq=state.seq + 1,
        prev_head=state.head,
        receipts_root=merkle_root(receipt_ids),
        count=len(receipt_ids),
        cumulative=state.cumulative + sum(costs),
    )
    head = domain.digest(batch.struct_hash())
    return _after(state, batch, head), SignedBatch(batch, key.sign(head))


def follow_lane(
    state: LaneState, signed: SignedBatch, receipt_ids: Sequence[bytes], costs: Sequence[int], domain: Domain
) -> LaneState:
    """Return the lane's state after a batch that its provider sent, or refuse it.

    Args:
        state: where the lane stands. signed: untrusted.
        receipt_ids, costs: what the follower itself holds for the batch's calls.

    Raises:
        BadTotal: another lane, a wrong sequence number, previous head, root, count or total.
        BadSignature: not signed by the lane's provider.
    """
    batch = signed.batch
    if batch.lane != state.lane:
        raise BadTotal("the batch is for another lane")
    if batch.seq != state.seq + 1:
        raise BadTotal(f"the lane stands at batch {state.seq}, this is batch {batch.seq}")
    if batch.prev_head != state.head:
        raise BadTotal(f"batch {batch.seq} does not follow the lane's head 0x{state.head.hex()}")
    if batch.count != len(receipt_ids) or not 1 <= batch.count <= MAX_BATCH_CALLS:
        raise BadTotal(f"batch {batch.seq} counts {batch.count} receipts, {len(receipt_ids)} are known")
    if batch.receipts_root != merkle_root(receipt_ids):
        raise BadTotal(f"batch {batch.seq} has a root that its receipts don't give")
    if batch.cumulative != state.cumulative + sum(costs):
        raise BadTotal(
            f"batch {batch.seq} claims {batch.cumulative} nano, its receipts add up to {state.cumulative + sum(costs)}"
        )
    head = domain.digest(batch.struct_hash())
    require_signer(head, signed.signature, state.lane.provider, "batch")
    return _after(state, batch, head)


def sign_voucher(state: LaneState, key: SigningKey, domain: Domain) -> SignedVoucher:
    """Sign for everything that a lane holds, as its gateway; raises ValueError for another's key."""
    if key.account != state.lane.gateway:
        raise ValueError("only the lane's gateway signs for it")
    voucher = Voucher(*_lane_fields(state.lane), cumulative=state.cumulative, count=state.count, head=state.head)
    return SignedVoucher(voucher, key.sign(domain.digest(voucher.struct_hash())))


def accept_voucher(
    last: Voucher | None, signed: SignedVoucher, lane: Lane, known_heads: dict[bytes, tuple[int, int]], domain: Domain
) -> Voucher:
    """Return a voucher that its provider may trust, or refuse it.

    Args:
        last: the voucher held so far. signed: untrusted. lane: whose voucher is due.
        known_heads: head → (cumulative nano, count) of the batches that the provider sent.

    Raises:
        BadTotal: another lane, a lower total or count, or a head the provider never sent with that total.
        BadSignature: not signed by the lane's gateway.
    """
    voucher = signed.voucher
    if voucher.lane != lane:
        raise BadTotal("the voucher is for another lane")
    if last is not None and (voucher.cumulative < last.cumulative or voucher.count < last.count):
        raise BadTotal(f"the voucher says {voucher.cumulative} nano, {last.cumulative} were signed before")
    expected = known_heads.get(voucher.head)
    if expected != (voucher.cumulative, voucher.count):
        raise BadTotal(
            f"the voucher says {voucher.cumulative} nano for {voucher.count} calls under head 0x{voucher.head.hex()}, "
            f"known is {expected}"
        )
    require_signer(domain.digest(voucher.struct_hash()), signed.signature, lane.gateway, "voucher")
    return voucher


def _lane_fields(lane: Lane) -> tuple[bytes, bytes, bytes, int]:
    return lane.gateway, lane.provider, lane.service_id, lane.lane_id


def _after(state: LaneState, batch: Batch, head: bytes) -> LaneState:
    return LaneState(
        lane=state.lane, seq=batch.seq, head=head, count=state.count + batch.count, cumulative=batch.cumulative
    )
