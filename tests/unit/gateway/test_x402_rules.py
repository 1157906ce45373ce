"""Each rule that a payment must keep, broken alone, is refused with its own code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.gateway_world import DEPLOYMENT, GATEWAY_KEY

from steelyard.chain.payments import Authorization, Standing, WitnessTransfer
from steelyard.chain.permit2 import PERMIT2, UPTO_PROXY
from steelyard.chain.yard import Permit
from steelyard.errors import PaymentRequired
from steelyard.gateway.x402_rules import Asked, check_offered, check_standing
from steelyard.gateway.x402_wire import EXACT, SCHEMES, UPTO, Offered, ask_for

NOW, LEAST, WINDOW, PRICE = 1_000_000, 960, 1_260, 5_000
ME, PAYER, OTHER = GATEWAY_KEY.account, b"\x31" * 20, b"\x32" * 20
ASKED = Asked(SCHEMES, "eip155:31415", DEPLOYMENT.yard, ME, LEAST)
PERMIT = Permit(
    owner=PAYER, spender=PERMIT2, amount_nano=PRICE, nonce=0, deadline_s=NOW + WINDOW, signature=b"\x00" * 65
)
EXACTLY = Authorization(
    payer=PAYER,
    receiver=ME,
    amount_nano=PRICE,
    valid_after_s=0,
    valid_before_s=NOW + WINDOW,
    nonce=b"\x05" * 32,
    signature=b"\x00" * 65,
)
AT_MOST = WitnessTransfer(
    payer=PAYER,
    receiver=ME,
    token=DEPLOYMENT.yard,
    amount_nano=PRICE,
    spender=UPTO_PROXY,
    facilitator=ME,
    valid_after_s=0,
    deadline_s=NOW + WINDOW,
    nonce=7,
    signature=b"\x00" * 65,
)


def offered(payment: Authorization | WitnessTransfer, **accepted: Any) -> Offered:
    """Return a payment under the offer that fits its scheme, changed as told."""
    scheme = EXACT if isinstance(payment, Authorization) else UPTO
    asked = ask_for(
        (scheme,),
        network=ASKED.network,
        token=ASKED.token,
        receiver=ME,
        amount_nano=accepted.pop("nano", PRICE),
        window_s=WINDOW,
    )[0]
    values = {name: getattr(asked, name) for name in asked.__struct_fields__}
    return Offered(type(asked)(**values | accepted), payment)


@pytest.mark.parametrize("payment", [EXACTLY, AT_MOST, replace(AT_MOST, permit=PERMIT)])
def test_payment_as_asked_is_taken(payment: Authorization | WitnessTransfer) -> None:
    """Neither rule refuses what keeps them all, up to the last second and the last nano."""
    check_offered(offered(payment), ASKED, PRICE, NOW)
    check_offered(offered(payment), ASKED, PRICE, NOW + WINDOW - LEAST)
    check_standing(payment, Standing(2 * PRICE, 2 * PRICE, False, NOW), PRICE)


@pytest.mark.parametrize(
    ("payment", "accepted", "code"),
    [
        (EXACTLY, {"scheme": "batch-settlement"}, "unsupported_scheme"),
        (EXACTLY, {"network": "eip155:1"}, "network_mismatch"),
        (EXACTLY, {"asset": "0x" + "ab" * 20}, "asset_mismatch"),
        (EXACTLY, {"pay_to": "0x" + "ab" * 20}, "invalid_exact_evm_payload_recipient_mismatch"),
        (replace(EXACTLY, receiver=OTHER), {}, "invalid_exact_evm_payload_recipient_mismatch"),
        (EXACTLY, {"nano": PRICE + 1}, "invalid_exact_evm_payload_authorization_value_mismatch"),
        (replace(EXACTLY, amount_nano=PRICE - 1), {"nano": PRICE - 1}, "amount_below_price"),
        (
            replace(EXACTLY, valid_before_s=NOW + LEAST - 1),
            {},
            "invalid_exact_evm_payload_authorization_valid_before",
        ),
        (replace(EXACTLY, valid_after_s=NOW), {}, "invalid_exact_evm_payload_authorization_valid_after"),
        (replace(AT_MOST, receiver=OTHER), {}, "invalid_permit2_recipient_mismatch"),
        (AT_MOST, {"nano": PRICE + 1}, "permit2_amount_mismatch"),
        (replace(AT_MOST, amount_nano=PRICE - 1), {"nano": PRICE - 1}, "amount_below_price"),
        (replace(AT_MOST, deadline_s=NOW + LEAST - 1), {}, "permit2_deadline_expired"),
        (replace(AT_MOST, permit=replace(PERMIT, deadline_s=NOW)), {}, "permit2_deadline_expired"),
        (replace(AT_MOST, valid_after_s=NOW), {}, "permit2_not_yet_valid"),
        (replace(AT_MOST, spender=OTHER), {}, "invalid_permit2_spender"),
        (replace(AT_MOST, facilitator=OTHER), {}, "upto_facilitator_mismatch"),
        (replace(AT_MOST, token=OTHER), {}, "permit2_token_mismatch"),
        (replace(AT_MOST, permit=replace(PERMIT, owner=OTHER)), {}, "eip2612_spender_not_permit2"),
        (replace(AT_MOST, permit=replace(PERMIT, spender=OTHER)), {}, "eip2612_spender_not_permit2"),
        (replace(AT_MOST, permit=replace(PERMIT, amount_nano=1)), {}, "permit2_2612_amount_mismatch"),
    ],
)
def test_payment_that_breaks_a_rule_is_refused_by_name(
    payment: Authorization | WitnessTransfer, accepted: dict[str, Any], code: str
) -> None:
    """One thing wrong, one code."""
    with pytest.raises(PaymentRequired) as refusal:
        check_offered(offered(payment, **accepted), ASKED, PRICE, NOW)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("payment", "standing", "held", "code"),
    [
        (EXACTLY, Standing(PRICE, 0, True, NOW), 0, "invalid_exact_evm_nonce_already_used"),
        (EXACTLY, Standing(PRICE - 1, 0, False, NOW), 0, "invalid_exact_evm_insufficient_balance"),
        (EXACTLY, Standing(2 * PRICE - 1, 0, False, NOW), PRICE, "invalid_exact_evm_insufficient_balance"),
        (AT_MOST, Standing(PRICE, PRICE, True, NOW), 0, "permit2_invalid_nonce"),
        (AT_MOST, Standing(PRICE - 1, PRICE, False, NOW), 0, "permit2_insufficient_balance"),
        (AT_MOST, Standing(PRICE, PRICE - 1, False, NOW), 0, "permit2_allowance_required"),
    ],
)
def test_payer_that_cannot_pay_is_refused_by_name(
    payment: Authorization | WitnessTransfer, standing: Standing, held: int, code: str
) -> None:
    """A spent nonce, too little money for all that is in flight, no allowance; a permit stands in for an allowance."""
    with pytest.raises(PaymentRequired) as refusal:
        check_standing(payment, standing, held)
    assert refusal.value.code == code
    check_standing(replace(AT_MOST, permit=PERMIT), Standing(PRICE, 0, False, NOW), 0)
