"""x402, version 2, on the wire: what a 402 asks, what a payment header holds, what a settlement is answered with.

1. Headers are base64 of JSON. What a stranger sends is decoded into our own types here and nowhere else.
2. Accounts are 20 bytes and amounts int inside; hex and decimal strings are for the wire.
3. Fields that we don't know are passed over: a client may send more.

Law: docs/spec/x402.md, section 4.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Any

import msgspec

from steelyard.chain.payments import Authorization, WitnessTransfer
from steelyard.chain.yard import Permit
from steelyard.errors import PaymentRequired
from steelyard.protocol.ids import format_hex

VERSION = 2
EXACT, UPTO = "exact", "upto"
SCHEMES = (EXACT, UPTO)
MAX_HEADER_BYTES = 16_384
GAS_SPONSORING = "eip2612GasSponsoring"
TOKEN_NAME, TOKEN_VERSION = "Yard", "1"

Payment = Authorization | WitnessTransfer

_encode = msgspec.json.Encoder().encode


class Requirements(msgspec.Struct, frozen=True, rename="camel"):
    """One way to pay, as a 402 offers it and a payment accepts it."""

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, Any] = {}


class _Authorized(msgspec.Struct, rename="camel"):
    payer: str = msgspec.field(name="from")
    to: str
    value: str
    valid_after: str
    valid_before: str
    nonce: str


class _ExactPayload(msgspec.Struct):
    authorization: _Authorized
    signature: str


class _Permitted(msgspec.Struct):
    token: str
    amount: str


class _Witness(msgspec.Struct, rename="camel"):
    to: str
    facilitator: str
    valid_after: str


class _Permit2Authorization(msgspec.Struct):
    payer: str = msgspec.field(name="from")
    permitted: _Permitted
    spender: str
    nonce: str
    deadline: str
    witness: _Witness


class _UptoPayload(msgspec.Struct, rename="camel"):
    permit2_authorization: _Permit2Authorization = msgspec.field(name="permit2Authorization")
    signature: str


class _Permit2612(msgspec.Struct):
    payer: str = msgspec.field(name="from")
    asset: str
    spender: str
    amount: str
    nonce: str
    deadline: str
    signature: str


class _Sponsoring(msgspec.Struct):
    info: _Permit2612


class _Head(msgspec.Struct, rename="camel"):
    accepted: Requirements
    payload: msgspec.Raw
    x402_version: int = msgspec.field(name="x402Version", default=VERSION)
    extensions: dict[str, msgspec.Raw] | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """What a payment header holds: which offer it takes, and the signed payment; nothing of it is verified yet.

    `permit_asset` and `permit_spender`: what the payment's own permit is for, if it has one.
    """

    accepted: Requirements
    payment: Payment


def read_payment(header: bytes) -> Offered:
    """Return what a `PAYMENT-SIGNATURE` header holds.

    Raises:
        PaymentRequired: it is no payment of version 2 in a scheme that we know (``invalid_payload``,
            ``unsupported_scheme``).
    """
    if len(header) > MAX_HEADER_BYTES:
        raise _malformed(f"it has {len(header)} bytes, at most {MAX_HEADER_BYTES} are taken")
    try:
        head = msgspec.json.decode(binascii.a2b_base64(header, strict_mode=True), type=_Head)
        if head.x402_version != VERSION:
            raise _malformed(f"x402 version {head.x402_version} is not spoken here: use version {VERSION}")
        if head.accepted.scheme == EXACT:
            return Offered(head.accepted, _exact(msgspec.json.decode(head.payload, type=_ExactPayload)))
        if head.accepted.scheme == UPTO:
            upto = _upto(msgspec.json.decode(head.payload, type=_UptoPayload), head.extensions or {})
            return Offered(head.accepted, upto)
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError, RecursionError) as error:
        raise _malformed(str(error)[:200]) from error
    raise PaymentRequired(f"scheme {head.accepted.scheme[:40]!r} is not offered", code="unsupported_scheme")


def _exact(raw: _ExactPayload) -> Authorization:
    signed = raw.authorization
    return Authorization(
        payer=_hex(signed.payer, 20),
        receiver=_hex(signed.to, 20),
        amount_nano=_number(signed.value),
        valid_after_s=_number(signed.valid_after),
        valid_before_s=_number(signed.valid_before),
        nonce=_hex(signed.nonce, 32),
        signature=_hex(raw.signature, 65),
    )


def _upto(raw: _UptoPayload, extensions: dict[str, msgspec.Raw]) -> WitnessTransfer:
    signed = raw.permit2_authorization
    permit = None
    if GAS_SPONSORING in extensions:
        info = msgspec.json.decode(extensions[GAS_SPONSORING], type=_Sponsoring).info
        permit = Permit(
            owner=_hex(info.payer, 20),
            spender=_hex(info.spender, 20),
            amount_nano=_number(info.amount),
            nonce=_number(info.nonce),
            deadline_s=_number(info.deadline),
            signature=_hex(info.signature, 65),
        )
    return WitnessTransfer(
        payer=_hex(signed.payer, 20),
        receiver=_hex(signed.witness.to, 20),
        token=_hex(signed.permitted.token, 20),
        amount_nano=_number(signed.permitted.amount),
        spender=_hex(signed.spender, 20),
        facilitator=_hex(signed.witness.facilitator, 20),
        valid_after_s=_number(signed.witness.valid_after),
        deadline_s=_number(signed.deadline),
        nonce=_number(signed.nonce),
        signature=_hex(raw.signature, 65),
        permit=permit,
    )


def encode_header(value: object) -> bytes:
    """Return a value as an x402 header carries it."""
    return binascii.b2a_base64(_encode(value), newline=False)


def ask_for(
    schemes: tuple[str, ...], *, network: str, token: bytes, receiver: bytes, amount_nano: int, window_s: int
) -> list[Requirements]:
    """Return the ways to pay an amount, in the order of `schemes`; the receiver is also the facilitator."""
    domain = {"name": TOKEN_NAME, "version": TOKEN_VERSION}
    extras = {
        EXACT: domain | {"assetTransferMethod": "eip3009"},
        UPTO: domain | {"assetTransferMethod": "permit2", "facilitatorAddress": format_hex(receiver)},
    }
    return [
        Requirements(
            scheme, network, format_hex(token), str(amount_nano), format_hex(receiver), window_s, extras[scheme]
        )
        for scheme in schemes
    ]


SPONSORING_DECLARED: dict[str, Any] = {
    GAS_SPONSORING: {
        "info": {"description": "An EIP-2612 permit for Permit2 may come with the payment.", "version": "1"},
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                **{name: {"type": "string", "pattern": "^0x[a-fA-F0-9]{40}$"} for name in ("from", "asset", "spender")},
                **{name: {"type": "string", "pattern": "^[0-9]+$"} for name in ("amount", "nonce", "deadline")},
                "signature": {"type": "string", "pattern": "^0x[a-fA-F0-9]+$"},
                "version": {"type": "string"},
            },
            "required": ["from", "asset", "spender", "amount", "nonce", "deadline", "signature", "version"],
        },
    }
}
"""What a 402 says of the extension by which `upto` needs no approval before."""


def _hex(text: str, size: int) -> bytes:
    if len(text) != 2 + 2 * size or text[:2] != "0x":
        raise ValueError(f"{text[:80]!r} is not 0x and {2 * size} hex digits")
    return bytes.fromhex(text[2:])


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 78 or (value := int(text)) >= 1 << 256:
        raise ValueError(f"{text[:80]!r} is no decimal number below 2^256")
    return value


def _malformed(why: str) -> PaymentRequired:
    return PaymentRequired(f"the PAYMENT-SIGNATURE header is no payment: {why}", code="invalid_payload")
