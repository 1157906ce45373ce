"""What is on sale now: verified offers of linked providers, by service.

1. An offer is taken only if its provider signed it, the registry has the same terms, the manifest's SHA-256 is the
   offer's and the registered service's, the kind is one we can parse, its grade is not above what the manifest allows,
   and the provider's stake is active.
2. A service that was ever sold here stays known: with nobody to serve it, it is unavailable, not unknown.
3. Prices and grades of an order are those of the verified offer, whatever the link says later.

Law: docs/spec/gateway.md, section 4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from steelyard.errors import BadMessage, ConfigError, Forbidden, PeerError, Refusal, SteelyardError
from steelyard.gateway.chain_view import ChainView, OfferTerms, ServiceTerms
from steelyard.gateway.listing import Listing, Seller
from steelyard.gateway.pay_lane import PayLane
from steelyard.gateway.preferences import read_region
from steelyard.gateway.replies import JSON_HEADER, Header, head_block
from steelyard.gateway.routing import Record
from steelyard.link.port import ProviderLink, SignedOffer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id as service_id_of
from steelyard.protocol.messages import Grade, Offer
from steelyard.protocol.signing import Domain, require_signer
from steelyard.services.manifest import Manifest, decode_manifest, manifest_digest
from steelyard.services.port import Service
from steelyard.verification.economics import largest_order_nano

__all__ = [
    "BindService",
    "Catalogue",
    "Listing",
    "Seller",
    "VerifiedOffer",
    "grade_name",
    "seller_headers",
    "seller_stamp",
]

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

BindService = Callable[[Manifest], Service]
"""Returns a kind bound to a manifest, without an engine; raises ConfigError for a kind that isn't installed."""


@dataclass(slots=True)
class VerifiedOffer:
    """An offer that passed every check, with its service ready to parse requests."""

    offer: Offer
    manifest: Manifest
    terms: ServiceTerms
    service: Service
    largest_nano: int
    region: str = ""


class Catalogue:
    """All services known to this gateway, and the rules by which offers get in.

    Args:
        chain: what is on record. domain: of the deployment. bind_service: from the kinds installed here.
    """

    def __init__(self, chain: ChainView, domain: Domain, bind_service: BindService) -> None:
        self._chain = chain
        self._domain = domain
        self._bind = bind_service
        self.listings: dict[str, Listing] = {}
        self._records: dict[tuple[bytes, bytes], Record] = {}

    async def verify_offers(self, provider: bytes, offers: Iterable[SignedOffer]) -> list[VerifiedOffer]:
        """Return a provider's offers, all verified.

        Raises:
            PeerError: a signature, hash or manifest is wrong.
            Refusal: no stake, nothing offered, another offer on record, or a kind that isn't installed here.
            ChainError: the chain can't be asked.
        """
        if not await self._chain.fetch_is_active(provider):
            raise Forbidden(
                f"0x{provider.hex()} has no active stake as a provider: stake with `steelyard stake provider` first",
                code="not_staked",
            )
        largest = largest_order_nano(await self._chain.fetch_stake(provider))
        verified = [await self._verify(provider, signed, largest) for signed in offers]
        if not verified:
            raise Forbidden(
                f"0x{provider.hex()} offers nothing: post an offer with `steelyard offer set`", code="no_offer"
            )
        return verified

    async def _verify(self, provider: bytes, signed: SignedOffer, largest_nano: int) -> VerifiedOffer:
        offer = signed.offer
        offer.check_fields()
        if offer.provider != provider:
            raise BadMessage(
                f"the offer for {signed.service!r} is by 0x{offer.provider.hex()}, not by 0x{provider.hex()}"
            )
        if offer.service_id != service_id_of(signed.service):
            raise BadMessage(f"the offer's service id is not that of {signed.service!r}")
        if offer.grade > max(Grade):
            raise BadMessage(
                f"the offer for {signed.service!r} has grade {offer.grade}, the highest is {int(max(Grade))}"
            )
        require_signer(self._domain.digest(offer.struct_hash()), signed.signature, provider, "offer")
        if manifest_digest(signed.manifest) != offer.manifest:
            raise BadMessage(f"the manifest sent for {signed.service!r} is not the one that its offer names")
        manifest = decode_manifest(signed.manifest)
        terms = await self._chain.fetch_service(offer.service_id)
        if terms is None:
            raise Forbidden(
                f"{signed.service!r} is not registered: use `steelyard services register`", code="no_service"
            )
        if terms.manifest not in (ZERO32, offer.manifest) or terms.kind != manifest.kind:
            raise Forbidden(
                f"the offer for {signed.service!r} names another manifest or kind than the registered service",
                code="manifest_differs",
            )
        on_record = await self._chain.fetch_offer(provider, offer.service_id)
        if on_record != OfferTerms(offer.price_in, offer.price_out, offer.grade, offer.manifest, offer.seq):
            raise Forbidden(
                f"the offer for {signed.service!r} differs from the registry's: post it with `steelyard offer set`",
                code="offer_differs",
            )
        try:
            service = self._bind(manifest)
        except (ConfigError, Refusal, PeerError) as error:
            raise Forbidden(
                f"{signed.service!r} is of kind {manifest.kind!r}: {error.message}", code="kind_unknown"
            ) from error
        if offer.grade > service.grade:
            raise Forbidden(
                f"the offer for {signed.service!r} is graded {grade_name(offer.grade)}, its manifest allows "
                f"{grade_name(service.grade)} at most: post it again with `steelyard offer set`",
                code="grade_too_high",
            )
        try:
            region = read_region(signed.region, "region")
        except Refusal as error:
            raise BadMessage(f"the offer for {signed.service!r}: {error.message}") from error
        return VerifiedOffer(offer, manifest, terms, service, largest_nano, region)

    def list_seller(self, link: ProviderLink, verified: VerifiedOffer, lane: PayLane) -> Seller:
        """Put a provider's verified offer on sale over its link."""
        name, offer = verified.terms.name, verified.offer
        listing = self.listings.get(name)
        if listing is None or listing.manifest != verified.manifest:
            sellers = [] if listing is None else listing.sellers
            model_json = msgspec.json.encode(name)
            listing = Listing(name, offer.service_id, verified.manifest, verified.service, model_json, sellers)
            self.listings[name] = listing
        self._remove(listing, lambda seller: seller.link.provider == link.provider)
        record = self._records.setdefault((link.provider, offer.service_id), Record())
        headers = seller_headers(offer, name, verified.manifest)
        seller = Seller(
            name=name,
            link=link,
            offer=offer,
            record=record,
            lane=lane,
            headers=headers,
            head=head_block((JSON_HEADER, *headers)),
            stamp=seller_stamp(headers),
            provider_hex="0x" + link.provider.hex(),
            price_nano=offer.price_in + offer.price_out,
            largest_nano=verified.largest_nano,
            region=verified.region,
            quantisation=verified.manifest.quantisation,
        )
        listing.sellers.append(seller)
        return seller

    def delist_provider(self, provider: bytes) -> None:
        """Take everything of a provider off sale."""
        for listing in self.listings.values():
            self._remove(listing, lambda seller: seller.link.provider == provider)

    def name_of(self, service_id: bytes) -> str:
        """Return the name of a service known here by its id, or an empty string."""
        return next((one.name for one in self.listings.values() if one.service_id == service_id), "")

    def find_link(self, provider: bytes) -> ProviderLink | None:
        """Return a provider's link that is up, or None."""
        for listing in self.listings.values():
            for seller in listing.sellers:
                if seller.link.provider == provider and seller.link.is_up:
                    return seller.link
        return None

    def nearest_names(self, name: str) -> list[str]:
        """Return up to three names on sale that look like this one, else what is on sale."""
        names = sorted(self.listings)
        return difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]

    async def is_registered(self, name: str) -> bool:
        """Say whether the registry has a service of this name; False also if the chain can't be asked."""
        try:
            return await self._chain.fetch_service(service_id_of(name)) is not None
        except SteelyardError:
            return False

    def _remove(self, listing: Listing, is_gone: Callable[[Seller], bool]) -> None:
        listing.sellers[:] = [seller for seller in listing.sellers if not is_gone(seller)]


def seller_headers(offer: Offer, name: str, manifest: Manifest) -> tuple[Header, ...]:
    """Return the headers that are the same for every answer of one provider at one service."""
    return (
        (b"x-steelyard-provider", b"0x" + offer.provider.hex().encode()),
        (b"x-steelyard-model", name.encode()),
        (b"x-steelyard-quantisation", _UNPRINTABLE.sub("?", manifest.quantisation or "none").encode()),
        (b"x-steelyard-grade", grade_name(offer.grade).encode()),
    )


def seller_stamp(headers: tuple[Header, ...]) -> bytes:
    """Return the `steelyard` object of a seller's answers, with places for call, receipt and cost."""
    fixed = msgspec.json.encode(
        {name.removeprefix(b"x-steelyard-").decode(): value.decode() for name, value in headers}
    )
    return fixed.replace(b"%", b"%%").removesuffix(b"}") + b',"call_id":"call_%s","receipt_id":"0x%s","cost_nano":%d}'


def grade_name(grade: int) -> str:
    """Return a grade's word, e.g. ``peer-checked``."""
    return Grade(grade).name.lower().replace("_", "-")
