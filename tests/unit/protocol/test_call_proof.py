"""A call's proof: what holds, what fails by name, and what nobody could check."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from steelyard.errors import BadSignature, NotProvable
from steelyard.gateway.calls_view import fields_of
from steelyard.protocol.call_proof import Step, check_call, verify_call
from steelyard.protocol.hashing import keccak
from steelyard.protocol.ids import format_hex
from steelyard.protocol.merkle import build_proof, merkle_root
from steelyard.protocol.messages import Batch, Order, Receipt, Voucher, content_hash
from steelyard.protocol.signing import Domain, SigningKey

PROVIDER, GATEWAY = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
DOMAIN, CALL, SALT, ZERO = Domain(31415, b"\x03" * 32), b"\x04" * 16, b"\x05" * 32, b"\x00" * 32
MODEL, CONTENT, BODY = "echo", b"hello", b'{"model":"echo"}'
OTHER = format_hex(b"\x09" * 32)


def show(*, has_batch: bool = True, has_voucher: bool = True) -> dict[str, Any]:
    """Return what a gateway shows of one call in a batch of three."""
    lane = (GATEWAY.account, PROVIDER.account, keccak(MODEL.encode()), 7)
    order = Order(CALL, *lane, content_hash(SALT, BODY), ZERO, 2**63, 4, 1_000_000, 2_000_000, 100, 1_000)
    receipt = Receipt(order.struct_hash(), 0, content_hash(SALT, CONTENT), ZERO, 5, 10, 25, 10, 20, 0)
    leaves = [b"\x06" * 32, receipt.struct_hash(), b"\x08" * 32]
    batch = Batch(*lane, 1, ZERO, merkle_root(leaves), 3, 75)
    voucher = Voucher(*lane, 75, 3, DOMAIN.digest(batch.struct_hash()))
    shown = {"salt": format_hex(SALT), "order": fields_of(order), "receipt": fields_of(receipt)}
    signed = {**fields_of(batch), "proof": [format_hex(step) for step in build_proof(leaves, 1)]}
    signed["signature"] = format_hex(PROVIDER.sign(DOMAIN.digest(batch.struct_hash())))
    paid = {**fields_of(voucher), "signature": format_hex(GATEWAY.sign(DOMAIN.digest(voucher.struct_hash())))}
    return shown | {"batch": signed if has_batch else None, "voucher": paid if has_voucher else None}


def check(shown: dict[str, Any], content: bytes | None = CONTENT, body: bytes | None = BODY) -> dict[str, Step]:
    """Return the steps by their names."""
    steps = check_call(shown, DOMAIN, model=MODEL, content=content, body=body, call_id=CALL)
    return {step.name: step for step in steps}


def test_whole_proof_holds_step_by_step() -> None:
    """With content and body every step is checked, and holds."""
    steps = check(show())
    assert list(steps) == ["call", "service", "request", "answer", "order", "cost", "batch", "provider", "voucher"]
    assert all(step.holds for step in steps.values())
    assert verify_call(show(), DOMAIN, model=MODEL, content=CONTENT, body=BODY).cost == 25


def test_what_was_not_given_is_said_to_be_unchecked() -> None:
    """Without content, body and voucher those steps neither hold nor fail; the others hold."""
    steps = check(show(has_voucher=False), None, None)
    assert {name for name, step in steps.items() if step.missing} == {"request", "answer", "voucher"}
    assert all(step.error is None for step in steps.values())
    assert not any(steps[name].holds for name in ("request", "answer", "voucher"))


@pytest.mark.parametrize(
    ("part", "field", "value", "failing"),
    [
        ("order", "call_id", "call_" + "ab" * 16, {"call", "order"}),
        ("order", "service_id", OTHER, {"service", "order", "batch", "voucher"}),
        ("order", "request_hash", OTHER, {"request", "order"}),
        ("order", "max_cost", 24, {"order", "cost"}),
        ("receipt", "response_hash", OTHER, {"answer", "batch"}),
        ("receipt", "units_out", 9, {"cost", "batch"}),
        ("receipt", "cost", 26, {"cost", "batch"}),
        ("batch", "receipts_root", OTHER, {"batch", "provider"}),
        ("batch", "cumulative", 76, {"provider", "voucher"}),
        ("batch", "proof", [OTHER], {"batch"}),
        ("batch", "proof", None, {"batch"}),
        ("batch", "signature", "0x" + "11" * 65, {"provider"}),
        ("voucher", "cumulative", 74, {"voucher"}),
        ("voucher", "cumulative", 76, {"voucher"}),
        ("voucher", "count", 4, {"voucher"}),
    ],
)
def test_changed_field_fails_the_steps_that_rest_on_it(part: str, field: str, value: Any, failing: set[str]) -> None:
    """No field that is paid by can be another one without a step that says so, and `verify_call` refuses it."""
    shown = copy.deepcopy(show())
    assert shown[part][field] != value
    shown[part][field] = value
    assert {name for name, step in check(shown).items() if step.error is not None} == failing
    if failing != {"call"}:
        with pytest.raises((NotProvable, BadSignature)):
            verify_call(shown, DOMAIN, model=MODEL, content=CONTENT, body=BODY)


def test_other_content_body_salt_or_deployment_fails() -> None:
    """What the client holds itself is compared, and signatures are the deployment's."""
    assert check(show(), content=b"hell")["answer"].error is not None
    assert check(show(), body=b"{}")["request"].error is not None
    salted = check(show() | {"salt": OTHER})
    assert salted["answer"].error is not None
    assert salted["request"].error is not None
    elsewhere = check_call(show(), Domain(31415, b"\x0a" * 32), model=MODEL, content=CONTENT, body=BODY)
    assert {step.name for step in elsewhere if step.error is not None} == {"provider", "voucher"}


def test_receipt_without_a_batch_is_not_proven_yet() -> None:
    """It says to ask again; a call without a receipt has nothing to prove."""
    error = check(show(has_batch=False, has_voucher=False))["batch"].error
    assert isinstance(error, NotProvable)
    assert error.code == "not_batched"
    with pytest.raises(NotProvable, match="shows no receipt"):
        check(show() | {"receipt": None})


def test_answer_that_another_provider_began_is_proven_by_its_last_part() -> None:
    """An order with a prefix is for how the answer ends; an order without one is for all of it."""
    shown = show(has_batch=False, has_voucher=False)
    assert check(shown, content=b"well, " + CONTENT)["answer"].error is not None
    shown["order"]["prefix_hash"] = OTHER
    assert check(shown, content=b"well, " + CONTENT)["answer"].holds
    assert check(shown, content=CONTENT + b"!")["answer"].error is not None
    too_long = check(shown, content=b"x" * (64 * 1024 + 1))["answer"].error
    assert too_long is not None
    assert "too long" in too_long.message
