"""What makes a payment good: pure rules over what was signed, what is asked, and what the chain says.

1. The order is fixed, and each refusal has x402's own code where it has one.
2. Time is the later of our clock and the newest block's; what must be left of a payment covers the call and settling.
3. Nothing here asks the chain: `check_standing` is given what it said.

Law: docs/spec/x402.md, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.chain.payments import Authorization, Standing, WitnessTransfer
from steelyard.chain.permit2 import PERMIT2, UPTO_PROXY
from steelyard.errors import PaymentRequired
from steelyard.gateway.x402_wire import Offered, Payment
from steelyard.protocol.ids import format_hex

CLOCK_SLACK_S = 6
"""A block may be this much older than the signature that it settles."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What this gateway asks of every payment; `least_s`: of its validity, so much must be left."""

    schemes: tuple[str, ...]
    network: str
    token: bytes
    receiver: bytes
    least_s: int


def check_offered(offered: Offered, asked: Asked, price_nano: int, now_s: int) -> None:
    """Refuse a payment that isn't what was asked.

    Args:
        price_nano: the highest cost of the request at this moment. now_s: Unix seconds.

    Raises:
        PaymentRequired: with the code of the first rule that it breaks.
    """
    accepted, payment = offered.accepted, offered.payment
    is_exact = isinstance(payment, Authorization)
    if accepted.scheme not in asked.schemes:
        raise _no(f"scheme {accepted.scheme!r} is not offered here: {', '.join(asked.schemes)}", "unsupported_scheme")
    if accepted.network != asked.network:
        raise _no(
            f"the payment is for {accepted.network[:80]!r}, this gateway is on {asked.network}", "network_mismatch"
        )
    if accepted.asset.lower() != format_hex(asked.token):
        raise _no(f"{accepted.asset[:80]!r} is not taken, only YARD at {format_hex(asked.token)}", "asset_mismatch")
    receiver_code = "invalid_exact_evm_payload_recipient_mismatch" if is_exact else "invalid_permit2_recipient_mismatch"
    if accepted.pay_to.lower() != format_hex(asked.receiver) or payment.receiver != asked.receiver:
        raise _no(f"the payment must go to {format_hex(asked.receiver)}", receiver_code)
    if accepted.amount != str(payment.amount_nano):
        code = "invalid_exact_evm_payload_authorization_value_mismatch" if is_exact else "permit2_amount_mismatch"
        raise _no(f"{payment.amount_nano} nano are signed, and {accepted.amount[:80]!r} accepted", code)
    if payment.amount_nano < price_nano:
        raise _no(
            f"the payment is {payment.amount_nano} nano, the request costs up to {price_nano}", "amount_below_price"
        )
    _check_times(payment, asked.least_s, now_s)
    if isinstance(payment, WitnessTransfer):
        _check_parties(payment, asked)


def _check_times(payment: Payment, least_s: int, now_s: int) -> None:
    if isinstance(payment, Authorization):
        until_s, prefix = payment.valid_before_s, "invalid_exact_evm_payload_authorization_valid_"
        late, early = prefix + "before", prefix + "after"
    else:
        until_s, late, early = payment.deadline_s, "permit2_deadline_expired", "permit2_not_yet_valid"
        if payment.permit is not None:
            until_s = min(until_s, payment.permit.deadline_s)
    if until_s < now_s + least_s:
        raise _no(
            f"the payment is valid for {until_s - now_s} s more, {least_s} are needed for call and settling", late
        )
    if payment.valid_after_s > now_s - CLOCK_SLACK_S:
        raise _no("the payment is not valid yet", early)


def _check_parties(payment: WitnessTransfer, asked: Asked) -> None:
    if payment.spender != UPTO_PROXY:
        raise _no(f"the spender must be {format_hex(UPTO_PROXY)}", "invalid_permit2_spender")
    if payment.facilitator != asked.receiver:
        raise _no(f"the facilitator must be {format_hex(asked.receiver)}", "upto_facilitator_mismatch")
    if payment.token != asked.token:
        raise _no(f"the token must be {format_hex(asked.token)}", "permit2_token_mismatch")
    permit = payment.permit
    if permit is not None and (permit.owner, permit.spender) != (payment.payer, PERMIT2):
        raise _no("the permit must be the payer's, for Permit2", "eip2612_spender_not_permit2")
    if permit is not None and permit.amount_nano != payment.amount_nano:
        raise _no("the permit must be for the payment's amount", "permit2_2612_amount_mismatch")


def check_standing(payment: Payment, standing: Standing, held_nano: int) -> None:
    """Refuse a payment that the chain wouldn't take now.

    Args:
        held_nano: what this payer's other payments in flight come to.

    Raises:
        PaymentRequired: a spent nonce, too little money, or no allowance for Permit2.
    """
    is_exact = isinstance(payment, Authorization)
    if standing.is_nonce_spent:
        raise spent_nonce(payment)
    if standing.balance_nano < held_nano + payment.amount_nano:
        code = "invalid_exact_evm_insufficient_balance" if is_exact else "permit2_insufficient_balance"
        held = f", of which {held_nano} are held by other calls" if held_nano else ""
        raise _no(f"the payer has {standing.balance_nano} nano{held}; {payment.amount_nano} are needed", code)
    needs_allowance = isinstance(payment, WitnessTransfer) and payment.permit is None
    if needs_allowance and standing.allowance_nano < held_nano + payment.amount_nano:
        raise _no(
            f"Permit2 ({format_hex(PERMIT2)}) may take {standing.allowance_nano} nano of the payer: approve it, or "
            "send an EIP-2612 permit with the payment",
            "permit2_allowance_required",
        )


def spent_nonce(payment: Payment) -> PaymentRequired:
    """Return the refusal of a payment that was used before, or is being used."""
    is_exact = isinstance(payment, Authorization)
    code = "invalid_exact_evm_nonce_already_used" if is_exact else "permit2_invalid_nonce"
    return _no("this payment was used before: sign another one", code)


def _no(message: str, code: str) -> PaymentRequired:
    return PaymentRequired(message, code=code)
