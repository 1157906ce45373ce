"""Checking a call's proof as a client, offline: from the bytes that it received to the batch its provider signed.

Each step is refused by name: the answer hashes to the receipt's `response_hash` under the call's salt; the receipt is
for the order; its cost is the formula's and within the order's; its id leads by the Merkle proof to the batch's root;
the provider signed the batch; a voucher, if there is one yet, is the gateway's and covers the batch.

Input is what `GET /v1/calls/{id}` returns. Pure. Law: docs/spec/gateway.md, section 6; docs/spec/messages.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from steelyard.errors import BadMessage, BadRequest, BadSignature, NotProvable, SteelyardError
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import format_call, parse_call
from steelyard.protocol.merkle import verify_proof
from steelyard.protocol.messages import Batch, Message, Order, Receipt, Voucher, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, require_signer

MAX_SEARCHED_BYTES = 64 * 1024
"""The longest answer in which the part is looked for that its last provider made."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a call's proof: it holds, or it fails by an `error`, or `missing` says why nobody could check it."""

    name: str
    proves: str
    error: SteelyardError | None = None
    missing: str = ""

    @property
    def holds(self) -> bool:
        """Whether it was checked and is so."""
        return self.error is None and not self.missing


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
    for step in check_call(shown, domain, model=model, content=content, body=body):
        if step.error is not None:
            raise step.error
    return read_shown(Receipt, shown.get("receipt"), "receipt")


def check_call(
    shown: Mapping[str, Any],
    domain: Domain,
    *,
    model: str,
    content: bytes | None,
    body: bytes | None,
    call_id: bytes | None = None,
) -> list[Step]:
    """Return every step of a call's proof, in the order in which one rests on another.

    Args:
        As in `verify_call`; without content or body the steps that need them say so.
        call_id: which call was asked for, 16 bytes: without its content another one's proof would hold as well.

    Raises:
        NotProvable: there is no order or no receipt that could be read.
    """
    order = read_shown(Order, shown.get("order"), "order")
    receipt = read_shown(Receipt, shown.get("receipt"), "receipt")
    asked = [] if call_id is None else [_step("call", "the order is of this call", lambda: _check_id(order, call_id))]
    steps = [
        *asked,
        _step("service", f"the order is for {model}", lambda: _check_service(order, model)),
        _step(
            "request",
            "the order is for the request that was sent",
            lambda: _check_request(order, shown, body or b""),
            missing="" if body is not None else "no request body was given",
        ),
        _step(
            "answer",
            "the receipt is for the answer that was received",
            lambda: _check_answer(order, receipt, shown, content or b""),
            missing="" if content is not None else "no answer was given",
        ),
        _step("order", "the receipt is for this order", lambda: _check_order(order, receipt)),
        _step("cost", "the cost follows from the units and the order's prices", lambda: _check_cost(order, receipt)),
    ]
    shown_batch = shown.get("batch")
    if not isinstance(shown_batch, Mapping):
        waiting = NotProvable("the receipt's batch isn't signed yet: ask again within a second", code="not_batched")
        return [*steps, Step("batch", "the receipt is in a signed batch", waiting)]
    return [
        *steps,
        _step("batch", "the receipt is in the batch, by its Merkle proof", lambda: _check_batch(order, receipt, shown)),
        _step("provider", "the provider signed the batch", lambda: _check_provider(order, shown, domain)),
        _step(
            "voucher",
            "the gateway signed a voucher that pays for the batch",
            lambda: _check_voucher(order, shown, domain),
            missing="" if isinstance(shown.get("voucher"), Mapping) else "no voucher covers the batch yet",
        ),
    ]


def _step(name: str, proves: str, check: Callable[[], None], missing: str = "") -> Step:
    if missing:
        return Step(name, proves, missing=missing)
    try:
        check()
    except (NotProvable, BadSignature) as error:
        return Step(name, proves, error)
    return Step(name, proves)


def _check_id(order: Order, call_id: bytes) -> None:
    _require(order.call_id == call_id, f"the order is of {format_call(order.call_id)}, another call")


def _check_service(order: Order, model: str) -> None:
    _require(order.service_id == keccak(model.encode()), f"the order is for another service than {model!r}")


def _check_request(order: Order, shown: Mapping[str, Any], body: bytes) -> None:
    salt = read_bytes(shown.get("salt"), "salt")
    _require(content_hash(salt, body) == order.request_hash, "the order is for another request body")


def _check_answer(order: Order, receipt: Receipt, shown: Mapping[str, Any], content: bytes) -> None:
    salt = read_bytes(shown.get("salt"), "salt")
    starts: Iterable[int] = (0,)
    if order.prefix_hash != ZERO32:  # another provider began the answer: this receipt is for how it ends
        _require(len(content) <= MAX_SEARCHED_BYTES, "the answer is too long to look for where its last part begins")
        starts = range(len(content) + 1)
    is_found = any(content_hash(salt, content[start:]) == receipt.response_hash for start in starts)
    _require(is_found, "the receipt is for another answer")


def _check_order(order: Order, receipt: Receipt) -> None:
    _require(receipt.order_hash == order.struct_hash(), "the receipt is for another order")


def _check_cost(order: Order, receipt: Receipt) -> None:
    cost = call_cost(receipt.units_in, receipt.units_out, order.price_in, order.price_out)
    _require(receipt.cost == cost <= order.max_cost, f"the receipt's cost of {receipt.cost} nano isn't the formula's")


def _check_batch(order: Order, receipt: Receipt, shown: Mapping[str, Any]) -> None:
    batch = read_shown(Batch, shown["batch"], "batch")
    _require(batch.lane == order.lane, "the batch is of another lane than the order")
    steps = shown["batch"].get("proof")
    _require(isinstance(steps, list), "there is no Merkle proof")
    proof = [read_bytes(step, "proof") for step in steps]
    _require(
        verify_proof(batch.receipts_root, receipt.struct_hash(), proof), "the receipt isn't under the batch's root"
    )


def _check_provider(order: Order, shown: Mapping[str, Any], domain: Domain) -> None:
    batch = read_shown(Batch, shown["batch"], "batch")
    signature = read_bytes(shown["batch"].get("signature"), "signature")
    require_signer(domain.digest(batch.struct_hash()), signature, order.provider, "batch")


def _check_voucher(order: Order, shown: Mapping[str, Any], domain: Domain) -> None:
    batch = read_shown(Batch, shown["batch"], "batch")
    voucher = read_shown(Voucher, shown["voucher"], "voucher")
    _require(voucher.lane == order.lane, "the voucher pays another lane")
    _require(voucher.cumulative >= batch.cumulative, "the voucher doesn't cover the batch")
    signature = read_bytes(shown["voucher"].get("signature"), "signature")
    require_signer(domain.digest(voucher.struct_hash()), signature, order.gateway, "voucher")


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
