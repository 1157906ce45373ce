"""One service on sale: who sells it, who gets the next call, and why the others don't.

1. Who is well is a candidate; one with an open case, or in doubt, only while nobody else is well.
2. What the caller asks comes first (choice.py), then a breaker's trial, a warm prefix, and the draw (routing.py).
3. The reasons are written down as they are found (why.py). Where nobody else sells, or the last tenth of a second had
   the same reasons, nothing is built.

Law: docs/spec/gateway.md, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from steelyard.gateway.choice import Candidate, behind, misfit, place
from steelyard.gateway.operator_cap import LEAST_OTHERS, Turns
from steelyard.gateway.pay_lane import PayLane
from steelyard.gateway.preferences import Preferences
from steelyard.gateway.replies import Header
from steelyard.gateway.routing import Record, ShareTable, Standing, choose_warm, pick_two
from steelyard.gateway.why import ONLY_SELLER, build_why
from steelyard.link.port import ProviderLink
from steelyard.protocol.messages import Offer
from steelyard.protocol.pricing import call_cost
from steelyard.services.manifest import Manifest
from steelyard.services.port import Quote, Service

_TOLD_AGE_S = 0.1
_NO_UNITS = Quote(0, 0)
_LOST = {
    "warm": "another one has, or will have, the conversation's prefix",
    "trial": "another one's breaker was tried",
}


@dataclass(slots=True, eq=False)
class Seller:
    """A linked provider at one service, with the bytes that are the same in all its answers.

    `largest_nano` is the highest cost of an order that its stake allows, kept true by watch.py. `region` is where its
    node says it is, lower-case; nobody vouches for it.
    """

    name: str
    link: ProviderLink
    offer: Offer
    record: Record
    lane: PayLane
    headers: tuple[Header, ...]
    head: bytes
    stamp: bytes
    provider_hex: str
    price_nano: int
    largest_nano: int
    region: str = ""
    quantisation: str = ""
    refusal: str = ""
    is_challenged: bool = False
    quality: float = 1.0

    def why_not(self, now_s: float) -> str:
        """Return why it gets no call now, or an empty string."""
        if self.refusal:
            return self.refusal
        if not self.link.is_up:
            return "link_down"
        return self.record.why_not(now_s)

    def candidate(self, quote: Quote) -> Candidate:
        """Return what a choice sees of it, for a call of so many units at most."""
        offer, record = self.offer, self.record
        cost = call_cost(quote.max_units_in, quote.max_units_out, offer.price_in, offer.price_out)
        return Candidate(
            self.link.provider,
            offer.price_in,
            offer.price_out,
            cost,
            self.quantisation,
            self.region,
            record.unit_s if record.successes else math.inf,
            record.first_s if record.successes else math.inf,
        )


@dataclass(slots=True, eq=False)
class Listing:
    """One service on sale: its manifest, its kind, and who sells it."""

    name: str
    service_id: bytes
    manifest: Manifest
    service: Service
    model_json: bytes = b""
    sellers: list[Seller] = field(default_factory=list)
    table: ShareTable = field(default_factory=ShareTable)
    told: dict[tuple[str, int, tuple[int, ...]], bytes] = field(default_factory=dict)
    told_s: float = -math.inf
    turns: Turns = field(default_factory=Turns)
    is_capped: bool = False

    def __post_init__(self) -> None:
        self.is_capped = getattr(self.service, "check", "") == "consensus"

    def choose(
        self,
        tried: Sequence[Seller],
        prefix: bytes,
        now_s: float,
        luck: float,
        wished: Preferences | None = None,
        quote: Quote = _NO_UNITS,
        *,
        is_deep: bool = False,
    ) -> tuple[Seller, bytes] | None:
        """Return who gets the next call and why (why.py), or None if nobody is well that may have it.

        Args:
            tried: who was asked already or can't take it. prefix: of the conversation, b"" if there is none.
            luck: in [0, 1). wished, quote: what the caller asks of its providers, and how large the call is at most.
            is_deep: it asks for what only archives have.
        """
        if len(self.sellers) == 1 and not tried and wished is None:
            only = self.sellers[0]
            return None if only.why_not(now_s) else (self._taken(only), ONLY_SELLER)
        well = [seller for seller in self.sellers if seller not in tried and not seller.why_not(now_s)]
        reasons: dict[bytes, str] = {}
        if wished is not None:
            reasons = self.misfits(wished, quote, tried)
            well = [seller for seller in well if seller.link.provider not in reasons]
        if len(well) > 1 and any(seller.is_challenged for seller in well):
            well = [seller for seller in well if not seller.is_challenged] or well
        if len(well) > 1 and any(seller.record.doubt for seller in well):
            well = [seller for seller in well if not seller.record.doubt] or well
        if is_deep and len(well) > 1:
            well = [seller for seller in well if seller.record.is_archival] or well
        if wished is not None and len(well) > 1:
            well = self._foremost(wished, quote, well, reasons)
        if not well:
            return None
        is_usual = wished is None and not tried and not is_deep
        seller, how, weights = self._pick(well, prefix, now_s, luck, is_usual=is_usual)
        if is_usual:
            return self._taken(seller), self._tell(seller, how, well, weights, now_s)
        return self._taken(seller), build_why(
            how, self._passed(seller, how, well, weights, tried, reasons, now_s), len(tried)
        )

    def misfits(self, wished: Preferences | None, quote: Quote, tried: Sequence[Seller] = ()) -> dict[bytes, str]:
        """Return why each seller may not serve a call by what its caller asks; who isn't named may."""
        if wished is None:
            return {}
        reasons = {}
        asked = {seller.link.provider for seller in tried}
        for seller in self.sellers:
            reason = misfit(wished, seller.candidate(quote))
            if not reason and wished.is_single and asked and seller.link.provider not in asked:
                reason = "another was asked first, and `allow_fallbacks` is false"
            if reason:
                reasons[seller.link.provider] = reason
        return reasons

    def reasons(self, now_s: float) -> list[tuple[bytes, str]]:
        """Return (provider, why not) for each seller, for the 503."""
        return [(seller.link.provider, seller.why_not(now_s) or "tried") for seller in self.sellers]

    def retry_after_s(self, now_s: float) -> float:
        """Return after how many seconds somebody may be well again; 2 if nobody knows."""
        waits = [seller.record.ready_in_s(now_s) for seller in self.sellers if seller.link.is_up and not seller.refusal]
        return max(min(waits, default=2.0), 0.1)

    def _foremost(
        self, wished: Preferences, quote: Quote, well: list[Seller], reasons: dict[bytes, str]
    ) -> list[Seller]:
        """Return who stands first by what the caller asks, and note why the others don't."""
        able = [(seller, seller.candidate(quote)) for seller in well]
        within = [pair for pair in able if pair[1].cost_nano <= pair[0].largest_nano]
        for seller, _ in able if within else ():
            reasons[seller.link.provider] = f"order_too_large (its stake allows {seller.largest_nano} nano)"
        able = within or able
        places = {seller.link.provider: place(wished, candidate) for seller, candidate in able}
        best = min(places.values())
        for provider, where in places.items():
            if where != best:
                reasons[provider] = behind(wished, best, where)
            else:
                reasons.pop(provider, None)
        return [seller for seller, _ in able if places[seller.link.provider] == best]

    def _pick(
        self, well: list[Seller], prefix: bytes, now_s: float, luck: float, *, is_usual: bool
    ) -> tuple[Seller, str, Sequence[float]]:
        """Return one of those who are well, how it was picked, and everybody's share."""
        if len(well) == 1:
            return well[0], "only_one_left", ()
        standings = [Standing(seller.price_nano, seller.record, seller.quality) for seller in well]
        table = self.table if is_usual else ShareTable()  # the usual one's shares aren't thrown away for one call
        is_capped = self.is_capped and len(well) > LEAST_OTHERS
        table.refresh(tuple(map(id, well)), standings, now_s, is_capped=is_capped)
        loads = [seller.link.calls_in_flight for seller in well]
        trying = next((seller for seller in well if seller.record.pause_s), None)
        if trying is not None:
            return trying, "trial", table.weights
        if prefix:
            # The kept weights: what was warm stays so, whichever others may be chosen from this time.
            providers = [seller.link.provider for seller in well]
            weights = self.table.warm_weights(providers, table.weights, is_learning=is_usual)
            index = choose_warm(prefix, providers, weights, loads)
            return well[index], "warm", table.weights
        first, second = pick_two(table.cumulative, luck)
        if loads[first] > loads[second]:
            first, second = second, first
        if is_capped:
            first = self.turns.take((first, second), [seller.link.provider for seller in well])
        return well[first], "share", table.weights

    def _tell(self, seller: Seller, how: str, well: list[Seller], weights: Sequence[float], now_s: float) -> bytes:
        if now_s - self.told_s > _TOLD_AGE_S or len(self.told) > 1024:
            self.told.clear()
            self.told_s = now_s
        key = (how, id(seller), self.table.keys if weights else ())
        why = self.told.get(key)
        if why is None:
            why = self.told[key] = build_why(how, self._passed(seller, how, well, weights, (), {}, now_s))
        return why

    def _passed(
        self,
        chosen: Seller,
        how: str,
        well: list[Seller],
        weights: Sequence[float],
        tried: Sequence[Seller],
        reasons: dict[bytes, str],
        now_s: float,
    ) -> list[tuple[bytes, str]]:
        share = {seller: weight / sum(weights) for seller, weight in zip(well, weights, strict=True)} if weights else {}
        told = []
        for seller in self.sellers:
            provider = seller.link.provider
            if provider == chosen.link.provider:
                continue
            reason = reasons.get(provider, "")
            if not reason and seller in tried:
                reason = "this call's highest cost is more than its stake, or the budget, allows"
            elif not reason and seller in share:
                reason = _LOST.get(how, "not drawn, its share was {:.0%}").format(share[seller])
                if seller.record.disagreements:
                    reason += f"; others gave another answer {seller.record.disagreements} times"
            told.append((provider, reason or seller.why_not(now_s) or _why_later(seller)))
        return told

    def _taken(self, seller: Seller) -> Seller:
        if seller.record.pause_s:
            seller.record.is_trying = True
        return seller


def _why_later(seller: Seller) -> str:
    """Why somebody who is well gets a call only if nobody else is."""
    return "case_open" if seller.is_challenged else seller.record.doubt or "no_archive"
