"""Opening a call: request, response and evidence against the receipt that the provider signed for.

1. The batch is the provider's: its signature, its root over the receipts, their orders, lanes and costs.
2. The salt opens both hashes; the evidence gives the root in the receipt. What doesn't open is named, and whose lack it
   is: a text that doesn't hash is the gateway's, evidence that doesn't is the provider's.

Pure. Law: docs/spec/validator.md, section 3.
"""

from __future__ import annotations

from steelyard.errors import BadMessage, BadTotal
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import FinishReason, Order, Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, require_signer
from steelyard.services.port import Result
from steelyard.validator.gateway_client import ShownBatch, ShownCall


def check_batch(shown: ShownBatch, gateway: bytes, domain: Domain) -> list[bytes]:
    """Return the receipts' hashes of a batch that its provider signed, in the order of its leaves; none where the
    gateway lost a call of it.

    Args:
        shown: untrusted. gateway: whose feed it came from.

    Raises:
        BadMessage, BadTotal, BadSignature: the gateway shows what no provider signed.
    """
    batch = shown.signed.batch
    if batch.gateway != gateway:
        raise BadMessage(f"the batch is of gateway 0x{batch.gateway.hex()}, the feed of 0x{gateway.hex()}")
    hashes = []
    for order, receipt in shown.calls:
        if order.lane != batch.lane or receipt.order_hash != order.struct_hash():
            raise BadMessage("a call of the batch is of another lane, or its receipt of another order")
        if receipt.cost != call_cost(receipt.units_in, receipt.units_out, order.price_in, order.price_out):
            raise BadTotal(f"the receipt costs {receipt.cost} nano, which isn't the formula's")
        hashes.append(receipt.struct_hash())
    if hashes and (batch.count != len(hashes) or merkle_root(hashes) != batch.receipts_root):
        raise BadTotal(f"the batch's root is not that of its {len(hashes)} receipts")
    require_signer(domain.digest(batch.struct_hash()), shown.signed.signature, batch.provider, "batch")
    return hashes


def open_texts(order: Order, receipt: Receipt, call: ShownCall) -> Result:
    """Return the result that the client got; raises BadMessage if the gateway's texts aren't the receipt's."""
    if content_hash(call.salt, call.body) != order.request_hash:
        raise BadMessage("the gateway's request body is not the order's")
    if order.prefix_hash != (content_hash(call.salt, call.prefix) if call.prefix else ZERO32):
        raise BadMessage("the gateway's prefix is not the order's")
    if content_hash(call.salt, call.content) != receipt.response_hash:
        raise BadMessage("the gateway's response content is not the receipt's")
    return Result(
        content=call.content,
        units_in=receipt.units_in,
        units_out=receipt.units_out,
        finish=FinishReason(receipt.finish_reason),
    )


def opens(receipt: Receipt, evidence: bytes) -> bool:
    """Say whether an evidence blob is the one that the receipt commits to."""
    return evidence_root(evidence) == receipt.evidence_hash


def has_evidence(receipt: Receipt) -> bool:
    """Say whether the provider committed to any evidence."""
    return receipt.evidence_hash != ZERO32
