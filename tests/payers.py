"""Payers for tests: they sign payments as x402's clients do, and put Permit2 on chains that come without it."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from tests.chains import RunningChain

from steelyard.chain.deployment import Deployment
from steelyard.chain.payments import Authorization, WitnessTransfer
from steelyard.chain.permit2 import CREATE2_FACTORY, UPTO_PROXY, genesis_codes, load_permit2, permit2_separator
from steelyard.chain.sender import Sender
from steelyard.chain.yard import YardClient
from steelyard.protocol.hashing import keccak
from steelyard.protocol.ids import format_hex
from steelyard.protocol.signing import SigningKey


async def place_permit2(chain: RunningChain, sender: Sender) -> None:
    """Bring a chain to what the embedded one begins with: Permit2 by its real creation, the proxy by decree."""
    if chain.kind == "embedded":
        return
    build = load_permit2()
    await sender.send(CREATE2_FACTORY, build.salt + build.creation)
    chain.call("anvil_setCode", "0x" + UPTO_PROXY.hex(), "0x" + genesis_codes(chain.chain_id)[UPTO_PROXY].hex())


def sign_authorization(
    yard: YardClient, key: SigningKey, receiver: bytes, amount_nano: int, *, until_s: int, **changes: Any
) -> Authorization:
    """Return a signed EIP-3009 payment; `changes` are made before it is signed."""
    fields: dict[str, Any] = {
        "payer": key.account,
        "receiver": receiver,
        "amount_nano": amount_nano,
        "valid_after_s": 0,
        "valid_before_s": until_s,
        "nonce": os.urandom(32),
    }
    fields |= changes
    unsigned = Authorization(**fields, signature=b"")
    return Authorization(**fields, signature=key.sign(yard.digest(unsigned.struct_hash())))


def sign_transfer(
    deployment: Deployment, key: SigningKey, receiver: bytes, amount_nano: int, *, until_s: int, **changes: Any
) -> WitnessTransfer:
    """Return a signed Permit2 payment that `receiver` settles itself; `changes` are made before it is signed."""
    permit = changes.pop("permit", None)
    fields: dict[str, Any] = {
        "payer": key.account,
        "receiver": receiver,
        "token": deployment.yard,
        "amount_nano": amount_nano,
        "spender": UPTO_PROXY,
        "facilitator": receiver,
        "valid_after_s": 0,
        "deadline_s": until_s,
        "nonce": int.from_bytes(os.urandom(32), "big"),
    }
    fields |= changes
    unsigned = WitnessTransfer(**fields, signature=b"")
    digest = keccak(b"\x19\x01" + permit2_separator(deployment.chain_id) + unsigned.struct_hash())
    return WitnessTransfer(**fields, signature=key.sign(digest), permit=permit)


def payment_header(accepted: dict[str, Any], payment: Authorization | WitnessTransfer) -> str:
    """Return a payment as the `PAYMENT-SIGNATURE` header carries it."""
    signature = "0x" + payment.signature.hex()
    sent: dict[str, Any] = {"x402Version": 2, "accepted": accepted}
    if isinstance(payment, Authorization):
        signed = {
            "from": format_hex(payment.payer),
            "to": format_hex(payment.receiver),
            "value": str(payment.amount_nano),
            "validAfter": str(payment.valid_after_s),
            "validBefore": str(payment.valid_before_s),
            "nonce": format_hex(payment.nonce),
        }
        sent["payload"] = {"authorization": signed, "signature": signature}
    else:
        signed = {
            "from": format_hex(payment.payer),
            "permitted": {"token": format_hex(payment.token), "amount": str(payment.amount_nano)},
            "spender": format_hex(payment.spender),
            "nonce": str(payment.nonce),
            "deadline": str(payment.deadline_s),
            "witness": {
                "to": format_hex(payment.receiver),
                "facilitator": format_hex(payment.facilitator),
                "validAfter": str(payment.valid_after_s),
            },
        }
        sent["payload"] = {"permit2Authorization": signed, "signature": signature}
    return base64.b64encode(json.dumps(sent).encode()).decode()
