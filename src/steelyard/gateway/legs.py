"""One answer made in several legs: what each provider has to do, what the client has of it, and what the key owes.

1. A leg that comes after others goes on from their prefix, or, where a kind can't, makes the answer again: what the
   client has already is passed over then, if it comes again byte for byte.
2. The key pays for what it was given, once: the input by the first leg that bills any, the output of every leg at the
   price of the provider that made it. What is made twice, and a prefix that is read as input, is the gateway's.
3. What a leg that ended without its receipt gave is owed, and settled together with the next one.

Pure. Law: docs/spec/money.md, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steelyard.protocol.messages import Offer, Order
from steelyard.protocol.pricing import call_cost
from steelyard.services.manifest import Manifest
from steelyard.services.port import Prefix, Quote, Request, Service, encode_prefix

Units = tuple[int, int]
"""Of input and of output."""

How = Literal["continued", "repeated"]

_ALL = 2**64


@dataclass(frozen=True, slots=True)
class Leg:
    """One order's share of an answer.

    Attributes:
        quote: the most units that its receipt may bill. prefix: what it goes on from, encoded; b"" from the beginning.
        repeats: content that it makes again and that isn't shown again.
        skipped: of its units, how many the key doesn't pay. owed_nano: for legs before it, settled with it.
        disputed_nano: of that, for legs that broke the rules: due only once a leg after them ends with its receipt.
    """

    quote: Quote
    prefix: bytes = b""
    repeats: bytes = b""
    skipped: Units = (0, 0)
    owed_nano: int = 0
    disputed_nano: int = 0

    def added(self, units: Units) -> Units:
        """Return the units of those that the key pays."""
        return max(0, units[0] - self.skipped[0]), max(0, units[1] - self.skipped[1])

    def charge(self, units: Units, terms: Order | Offer) -> int:
        """Return what the key pays at these terms once the leg billed these units."""
        return self.owed_nano + call_cost(*self.added(units), terms.price_in, terms.price_out)

    def bound(self, units: Units) -> Units:
        """Return units that a provider claims (untrusted) cut to the quote."""
        return min(units[0], self.quote.max_units_in), min(units[1], self.quote.max_units_out)


@dataclass(frozen=True, slots=True)
class Carry:
    """What a client has of an answer after the legs that are over, and what that costs.

    Attributes:
        content, trail: of all that was shown. units: that the key pays. nano: charged for them.
        owed_nano: for them too, and not charged yet. disputed_nano: of that, for legs that broke the rules.
    """

    content: bytes = b""
    trail: bytes = b""
    units: Units = (0, 0)
    nano: int = 0
    owed_nano: int = 0
    disputed_nano: int = 0

    def after(
        self,
        leg: Leg,
        shown: tuple[bytes, bytes] | None,
        units: Units,
        paid_nano: int,
        owed_nano: int,
        disputed_nano: int = 0,
    ) -> Carry:
        """Return what a client has after one more leg.

        Args:
            shown: the leg's content and trail, None if nothing of it was shown. units: that the leg gave.
            paid_nano: charged by it, `leg.owed_nano` among it. owed_nano, disputed_nano: for all that is not charged
                yet.
        """
        nano = self.nano + paid_nano
        if shown is None:
            return Carry(self.content, self.trail, self.units, nano, owed_nano, disputed_nano)
        content, trail = shown
        if leg.repeats:
            content = self.content + content[len(leg.repeats) :]
        else:
            content, trail = self.content + content, self.trail + trail
        added = leg.added(units)
        units = (self.units[0] + added[0], self.units[1] + added[1])
        return Carry(content, trail, units, nano, owed_nano, disputed_nano)

    def next_leg(self, how: How, service: Service, request: Request, quote: Quote) -> Leg | None:
        """Return the leg that comes next, or None if the answer can't be gone on with in this way.

        Args:
            quote: of the whole answer.
        """
        skipped_in = _ALL if self.units[0] else 0
        if how == "repeated":
            return Leg(quote, b"", self.content, (skipped_in, self.units[1]), self.owed_nano, self.disputed_nano)
        prefix = Prefix(self.content, self.units[1], self.trail)
        quote_rest = getattr(service, "quote_rest", None) if getattr(service, "can_continue", False) else None
        rest: Quote | None = None if quote_rest is None else quote_rest(request, prefix)
        if rest is None:
            return None
        skipped = (skipped_in or prefix.units_out, 0)
        return Leg(rest, encode_prefix(prefix), b"", skipped, self.owed_nano, self.disputed_nano)


NOTHING = Carry()
"""Before the first leg."""


def can_repeat(service: Service, manifest: Manifest) -> bool:
    """Say whether the same order is likely to give the same answer again."""
    is_exact = getattr(service, "check", "") == "exact"
    return is_exact or bool(manifest.sampler) or "seed" in manifest.parameters
