"""Checking a call's proof as a client, offline: from the bytes that it received to the batch its provider signed.

Each step is refused by name: the answer hashes to the receipt's `response_hash` under the call's salt; the receipt is
for the order; its cost is the formula's and within the order's; its id leads by the Merkle proof to the batch's root;
the provider signed the batch; a voucher, if there is one yet, is the gateway's and covers the batch.

Input is what `GET /v1/calls/{id}` returns. Pure. Law: docs/spec/gateway.md, section 6; docs/spec/messages.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from steelyard.errors import BadMessage, BadRequest, NotProvable
from steelyard.protocol.hashing import keccak
from steelyard.protocol.ids import parse_call
from steelyard.protocol.merkle import verify_proof
from steelyard.protocol.messages import Batch, Message, Order, Receipt, Voucher, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, require_signer

M = TypeVar("M", bound=Message)


def verify_call(shown: Mapping[str, Any], domain: Domain, *, model: str, content: bytes, body: bytes | None) -> Receipt:
    """Return the receipt of a call whose proof holds.

    Args:
        shown: the JSON object of `/v1/calls/{id}`; untrusted. domain: of the deployment, from a source you trust.
        model: the service's name that was asked for. content: the answer's content bytes as received.
        body: the request's bytes as sent, or None if they aren't at hand.

    Raises:
        NotProvable: the batch isn't signed yet, or a step fails; says which.
        BadSignature: a batch or voucher that is not its signer's.
    """
    order = read_shown(Order, shown.get("order"), "order")
    receipt = read_shown(Receipt, shown.get("receipt"), "receipt")
    salt = read_bytes(shown.get("salt"), "salt")
    _require(order.service_id == keccak(model.encode()), f"the order is for another service than {model!r}")
    if body is not None:
        _require(content_hash(salt, body) == order.request_hash, "the order is for another request body")
    _require(content_hash(salt, content) == receipt.response_hash, "the receipt is for another answer")
    _require(receipt.order_hash == order.struct_hash(), "the receipt is for another order")
    cost = call_cost(receipt.units_in, receipt.units_out, order.price_in, order.price_out)
    _require(receipt.cost == cost <= order.max_cost, f"the receipt's cost of {receipt.cost} nano isn't the formula's")
    batch_shown = shown.get("batch")
    if not isinstance(batch_shown, Mapping):
        raise NotProvable("the receipt's batch isn't signed yet: ask again within a second", code="not_batched")
    batch = read_shown(Batch, batch_shown, "batch")
    _require(batch.lane == order.lane, "the batch is of another lane than the order")
    steps = batch_shown.get("proof")
    _require(isinstance(steps, list), "there is no Merkle proof")
    proof = [read_bytes(step, "proof") for step in steps or ()]
    _require(
        verify_proof(batch.receipts_root, receipt.struct_hash(), proof), "the receipt isn't under the batch's root"
    )
    signature = read_bytes(batch_shown.get("signature"), "signature")
    require_signer(domain.digest(batch.struct_hash()), signature, order.provider, "batch")
    voucher_shown = shown.get("voucher")
    if isinstance(voucher_shown, Mapping):
        voucher = read_shown(Voucher, voucher_shown, "voucher")
        _require(voucher.lane == order.lane, "the voucher pays another lane")
        _require(voucher.cumulative >= batch.cumulative, "the voucher doesn't cover the batch")
        signature = read_bytes(voucher_shown.get("signature"), "signature")
        require_signer(domain.digest(voucher.struct_hash()), signature, order.gateway, "voucher")
    return receipt


def read_shown(kind: type[M], shown: object, what: str) -> M:
    """Return a message from the JSON object that a gateway shows of it; raises NotProvable naming `what`."""
    if not isinstance(shown, Mapping):
        raise NotProvable(f"the gateway shows no {what}")
    values: list[Any] = []
    for _, name in kind.fields():
        value = shown.get(name)
        if name == "call_id":
            values.append(_call_id(value))
        elif isinstance(value, str) and value.startswith("0x"):
            values.append(read_bytes(value, name))
        else:
            values.append(int(value) if isinstance(value, str) and value.isdigit() else value)
    message = kind(*values)
    try:
        message.check_fields()
    except BadMessage as error:
        raise NotProvable(f"the gateway shows a malformed {what}: {error}") from error
    return message


def _call_id(value: object) -> bytes:
    try:
        return parse_call(str(value))
    except BadRequest as error:
        raise NotProvable(f"the gateway shows a malformed call id: {error}") from error


def read_bytes(value: object, what: str) -> bytes:
    """Return the bytes of 0x hex in a gateway's JSON; raises NotProvable naming `what`."""
    try:
        if isinstance(value, str) and value.startswith("0x"):
            return bytes.fromhex(value[2:])
    except ValueError:
        pass
    raise NotProvable(f"the gateway shows a malformed {what}: {str(value)[:80]!r}")


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise NotProvable(otherwise, code="proof_refused")
