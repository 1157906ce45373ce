"""Payment headers: what a client of x402 sends is read as it was signed, and rubbish is refused as rubbish."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway_world import DEPLOYMENT, GATEWAY_KEY
from tests.paid_world import PAYER
from tests.payers import payment_header, sign_transfer

from steelyard.chain.payments import WitnessTransfer
from steelyard.errors import PaymentRequired
from steelyard.gateway.x402_wire import GAS_SPONSORING, MAX_HEADER_BYTES, UPTO, ask_for, encode_header, read_payment

OFFER = ask_for(
    (UPTO,), network="eip155:1", token=DEPLOYMENT.yard, receiver=GATEWAY_KEY.account, amount_nano=77, window_s=60
)[0]
ACCEPTED: dict[str, Any] = json.loads(base64.b64decode(encode_header(OFFER)))
PAYMENT = sign_transfer(DEPLOYMENT, PAYER, GATEWAY_KEY.account, 77, until_s=99)


def header(**changes: Any) -> dict[str, Any]:
    """Return a good payment's JSON, changed as told."""
    return json.loads(base64.b64decode(payment_header(ACCEPTED, PAYMENT))) | changes


def encoded(value: Any) -> bytes:
    """Return a value as a header."""
    return base64.b64encode(json.dumps(value).encode())


def test_payment_is_read_as_it_was_signed() -> None:
    """Every field comes through, and what we don't know is passed over."""
    read = read_payment(encoded(header(resource={"url": "http://x"}, more=1)))
    assert (read.accepted, read.payment) == (OFFER, PAYMENT)


def test_permit_comes_with_the_payment_it_is_for() -> None:
    """The gas sponsoring extension becomes the payment's permit."""
    info = {
        "from": "0x" + PAYER.account.hex(),
        "asset": ACCEPTED["asset"],
        "spender": "0x" + "22" * 20,
        "amount": "77",
        "nonce": "3",
        "deadline": "99",
        "signature": "0x" + "11" * 65,
        "version": "1",
    }
    payment = read_payment(encoded(header(extensions={GAS_SPONSORING: {"info": info}, "other": [1]}))).payment
    assert isinstance(payment, WitnessTransfer)
    assert payment.permit is not None
    assert (payment.permit.owner, payment.permit.amount_nano) == (PAYER.account, 77)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_payload"),
        (b"not base64!", "invalid_payload"),
        (base64.b64encode(b"\xff\xfe"), "invalid_payload"),
        (encoded([1]), "invalid_payload"),
        (encoded(header(x402Version=1)), "invalid_payload"),
        (encoded(header(payload={"signature": "0x"})), "invalid_payload"),
        (encoded(header(accepted=ACCEPTED | {"scheme": "exact"})), "invalid_payload"),
        (encoded(header(accepted=ACCEPTED | {"scheme": "other"})), "unsupported_scheme"),
        (encoded(header(pad="x" * MAX_HEADER_BYTES)), "invalid_payload"),
        (encoded(header(pad=None)).replace(b"=", b"") + b"=a", "invalid_payload"),
        (base64.b64encode(b"[" * 5_000), "invalid_payload"),
    ],
)
def test_header_that_is_no_payment_is_refused(raw: bytes, code: str) -> None:
    """Whatever is wrong with it is one refusal, never a fault."""
    with pytest.raises(PaymentRequired) as refusal:
        read_payment(raw)
    assert refusal.value.code == code


@pytest.mark.parametrize("number", ["-1", "1.0", "1e3", "", "٣", "9" * 78, str(2**256), "0x10"])
def test_number_that_is_none_is_refused(number: str) -> None:
    """Amounts and times are decimal, and fit the contract's words."""
    sent = header()
    sent["payload"]["permit2Authorization"]["nonce"] = number
    with pytest.raises(PaymentRequired, match="no decimal number"):
        read_payment(encoded(sent))


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: base64.b64encode(text.encode())))
def test_any_header_is_a_payment_or_a_refusal(raw: bytes) -> None:
    """Nothing that a stranger sends is a bug of ours."""
    with suppress(PaymentRequired):
        read_payment(raw)
