"""Consent to demand evidence on chain: given for a call whose provider didn't serve this gateway's own relay.

1. What is served on chain is public for ever, and spells the answer. So consent needs a call that is shown to
   validators at all (never a private one), and a relay that failed here `LEAST_FAILURES` times: nobody publishes what
   was served.
2. Evidence that doesn't open its receipt counts as not served.
3. Which relays failed is remembered for a bounded number of calls, and by this process alone.

Law: docs/spec/gateway.md, section 9; docs/spec/contracts.md, section 8.
"""

from __future__ import annotations

from collections import OrderedDict

from steelyard.chain.proofs import sign_consent
from steelyard.errors import Conflict, Forbidden
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.ids import format_hex
from steelyard.protocol.messages import Receipt
from steelyard.protocol.signing import Domain, SigningKey

LEAST_FAILURES = 2
MAX_REMEMBERED = 4_096


class Consents:
    """Counts relays that failed, and signs.

    Args:
        key: the gateway's. domain: of the deployment. is_consenting: whether it lets anything be demanded.
    """

    def __init__(self, key: SigningKey, domain: Domain, *, is_consenting: bool) -> None:
        self._key = key
        self._domain = domain
        self._is_consenting = is_consenting
        self._failures: OrderedDict[bytes, int] = OrderedDict()

    def note(self, receipt: Receipt, receipt_hash: bytes, evidence: bytes | None) -> None:
        """Note what a relay came to; None: the provider did not serve."""
        if evidence is not None and evidence_root(evidence) == receipt.evidence_hash:
            self._failures.pop(receipt_hash, None)
            return
        self._failures[receipt_hash] = self._failures.get(receipt_hash, 0) + 1
        self._failures.move_to_end(receipt_hash)
        if len(self._failures) > MAX_REMEMBERED:
            self._failures.popitem(last=False)

    def sign(self, validator: bytes, receipt_hash: bytes) -> bytes:
        """Return the signature that lets a validator demand the evidence of a receipt.

        Raises:
            Forbidden: this gateway lets nothing be demanded. Conflict: the relay has not failed often enough.
        """
        if not self._is_consenting:
            raise Forbidden(
                "this gateway lets no evidence be demanded on chain (gateway.consents_to_demands)", code="no_consent"
            )
        failures = self._failures.get(receipt_hash, 0)
        if failures < LEAST_FAILURES:
            raise Conflict(
                f"the provider failed to serve the evidence of {format_hex(receipt_hash)} here {failures} times, and "
                f"{LEAST_FAILURES} are needed: ask for it at /v1/checks/evidence first",
                code="relay_first",
                param="receipt_id",
            )
        return sign_consent(self._key, self._domain, validator, receipt_hash)
