"""Between an answer and its client: what is paid for goes out once it is settled.

1. A whole answer, and all of an `exact` stream, wait for the settlement; of an `upto` stream the last events do.
2. Where settling fails, the events that make a stream whole don't leave: an error stands in their place.

Law: docs/spec/x402.md, section 1.
"""

from __future__ import annotations

import msgspec

from steelyard.errors import PaymentRequired, SteelyardError
from steelyard.gateway.replies import Header, Message, Send, error_object
from steelyard.gateway.x402_settle import TRANSACTION_FAILED, Claim, Settled, Till
from steelyard.gateway.x402_wire import EXACT, encode_header
from steelyard.protocol.ids import format_hex


class PaidSend:
    """An ASGI `send` that settles before what is paid for goes out.

    Args:
        is_late: whether that is the stream's last events, instead of all of the answer.

    `is_shown`: something was sent. `is_gone`: the client hung up.
    """

    def __init__(self, till: Till, claim: Claim, send: Send, *, is_late: bool) -> None:
        self.claim = claim
        self.is_late = is_late
        self.is_shown = False
        self.is_gone = False
        self._till = till
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self.is_late:
                settled = await self.settle()
                message["headers"] = [*message["headers"], self._response(settled)]
            self.is_shown = True
        elif self.is_late and not message.get("more_body") and not self.claim.meter.reserved_nano:
            message["body"] = await self._end(message.get("body", b""))
        await self._send(message)

    async def settle(self) -> Settled:
        """End the claim: an `exact` one at the amount signed, an `upto` one at what the call cost."""
        claim = self.claim
        nano = claim.payment.amount_nano if claim.scheme == EXACT else claim.meter.unsaved_nano
        return await self._till.settle(claim, nano)

    async def _end(self, events: bytes) -> bytes:
        try:
            settled = await self.settle()
        except SteelyardError as error:
            return b"data: %s\n\n" % msgspec.json.encode({"error": error_object(error)})
        return b": payment-response %s\n\n%s" % (self._response(settled)[1], events)

    def failure(self, refusal: PaymentRequired) -> tuple[Header, ...]:
        """Return the header for a settlement that the chain refused, if that is what a refusal is about."""
        if refusal.code != TRANSACTION_FAILED:
            return ()
        return (payment_response(self._till.asked.network, self.claim, Settled(0), refusal),)

    def _response(self, settled: Settled) -> Header:
        return payment_response(self._till.asked.network, self.claim, settled)


def payment_response(network: str, claim: Claim, settled: Settled, error: SteelyardError | None = None) -> Header:
    """Return the `PAYMENT-RESPONSE` header for how a payment ended."""
    value: dict[str, object] = {
        "success": error is None and not settled.is_pending,
        "transaction": format_hex(settled.tx_hash) if settled.tx_hash else "",
        "network": network,
        "payer": format_hex(claim.payment.payer),
        "amount": str(settled.amount_nano),
    }
    if settled.is_pending:
        value["errorReason"] = "settlement_pending"
    if error is not None:
        value |= {"errorReason": error.code, "errorMessage": error.message}
    return b"payment-response", encode_header(value)
