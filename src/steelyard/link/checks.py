"""Field checks of the protocol's messages inside frames, written out: they stand on the hot path.

Decoding has fixed the types; what is left are lengths and ranges. `Message.check_fields` says the same, forty times
slower; a test compares the two.

Law: docs/spec/link.md, section 2.
"""

from __future__ import annotations

from steelyard.errors import BadMessage
from steelyard.link.frames import Chain, Claim, Open
from steelyard.link.port import LeafEntry, SignedOffer
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Batch, Lane, Offer, Order, Receipt, Voucher

_UINT8 = 1 << 8
_UINT32 = 1 << 32
# msgpack ends at 2^64 - 1, and so do amounts on a link: a total beyond it can't be sent at all.


def check_order(order: Order) -> None:
    """Refuse an order whose field lies outside its Solidity type; raises BadMessage."""
    if not (
        len(order.call_id) == 16
        and len(order.gateway) == 20 == len(order.provider)
        and len(order.service_id) == 32 == len(order.request_hash) == len(order.prefix_hash)
        and order.lane_id >= 0 <= order.sampler_seed
        and 0 <= order.grade < _UINT8
        and order.price_in >= 0 <= order.price_out
        and order.max_cost >= 0 <= order.deadline_ms
    ):
        raise BadMessage("an order has a field outside its type")


def check_receipt(receipt: Receipt) -> None:
    """Refuse a receipt whose field lies outside its Solidity type; raises BadMessage."""
    if not (
        len(receipt.order_hash) == 32 == len(receipt.response_hash) == len(receipt.evidence_hash)
        and 0 <= receipt.part < _UINT32
        and receipt.units_in >= 0 <= receipt.units_out
        and receipt.cost >= 0
        and receipt.started_ms >= 0 <= receipt.finished_ms
        and 0 <= receipt.finish_reason < _UINT8
    ):
        raise BadMessage("a receipt has a field outside its type")


def check_lane(lane: Lane | Batch | Voucher) -> None:
    """Refuse the four fields that name a lane if they lie outside their types; raises BadMessage."""
    if not (
        len(lane.gateway) == 20 == len(lane.provider) and len(lane.service_id) == 32 and 0 <= lane.lane_id < 1 << 64
    ):
        raise BadMessage("a lane has a field outside its type")


def check_state(state: LaneState) -> None:
    """Refuse a lane's state with a field outside its type; raises BadMessage."""
    check_lane(state.lane)
    if not (state.seq >= 0 <= state.count and len(state.head) == 32 and state.cumulative >= 0):
        raise BadMessage("a lane's state has a field outside its type")


def check_signed_batch(signed: SignedBatch) -> None:
    """Refuse a batch with a field outside its type; raises BadMessage. The signature is checked by who follows it."""
    batch = signed.batch
    check_lane(batch)
    if not (
        batch.seq >= 1
        and len(batch.prev_head) == 32 == len(batch.receipts_root)
        and 1 <= batch.count < _UINT32
        and batch.cumulative >= 0
        and len(signed.signature) == 65
    ):
        raise BadMessage("a batch has a field outside its type")


def check_signed_voucher(signed: SignedVoucher) -> None:
    """Refuse a voucher with a field outside its type; raises BadMessage."""
    voucher = signed.voucher
    check_lane(voucher)
    if not (voucher.cumulative >= 0 <= voucher.count and len(voucher.head) == 32 and len(signed.signature) == 65):
        raise BadMessage("a voucher has a field outside its type")


def check_offers(offers: tuple[SignedOffer, ...], provider: bytes) -> None:
    """Refuse offers with a field outside its type, of another provider, or two of one service; raises BadMessage."""
    for signed in offers:
        _check_offer(signed.offer)
        if signed.offer.provider != provider:
            raise BadMessage(f"an offer of 0x{signed.offer.provider.hex()} comes from 0x{provider.hex()}")
    if len({signed.offer.service_id for signed in offers}) != len(offers):
        raise BadMessage("two offers of one service in one message")


def check_entries(entries: tuple[LeafEntry, ...]) -> None:
    """Refuse leaf entries with a field outside its type; raises BadMessage."""
    for entry in entries:
        check_order(entry.order)
        check_receipt(entry.receipt)


def check_chain(frame: Chain) -> None:
    """Refuse a batch whose parts don't belong together; raises BadMessage."""
    check_signed_batch(frame.signed)
    check_entries(frame.entries)
    if len(frame.call_ids) != frame.signed.batch.count:
        raise BadMessage(f"a batch of {frame.signed.batch.count} receipts comes with {len(frame.call_ids)} call ids")
    if frame.entries and tuple(entry.order.call_id for entry in frame.entries) != frame.call_ids:
        raise BadMessage("a batch's leaf entries are not those of its call ids")


def check_claim(frame: Claim) -> None:
    """Refuse a claim whose parts don't belong together; raises BadMessage."""
    claim = frame.claim
    check_lane(claim.lane)
    if len(claim.batches) != len(claim.entries):
        raise BadMessage(f"a claim of {len(claim.batches)} batches comes with {len(claim.entries)} lists of entries")
    for signed, entries in zip(claim.batches, claim.entries, strict=True):
        check_signed_batch(signed)
        check_entries(entries)
        if len(entries) != signed.batch.count or signed.batch.lane != claim.lane:
            raise BadMessage("a claim's batch has other entries or another lane")
    if claim.voucher is not None:
        check_signed_voucher(claim.voucher)


def check_open(frame: Open, max_body_bytes: int) -> None:
    """Refuse a call with an order outside its types, or with a body or prefix that is too long; raises BadMessage."""
    check_order(frame.request.order)
    size = max(len(frame.request.body), len(frame.request.prefix))
    if size > max_body_bytes:
        raise BadMessage(f"a body or prefix of {size} bytes, the limit is {max_body_bytes}", code="oversize")


def _check_offer(offer: Offer) -> None:
    if not (
        len(offer.provider) == 20
        and len(offer.service_id) == 32 == len(offer.manifest)
        and offer.price_in >= 0 <= offer.price_out
        and 0 <= offer.grade < _UINT8
        and offer.seq >= 0
    ):
        raise BadMessage("an offer has a field outside its type")
