"""Offers that get in, and those that don't: each check alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from steelyard.errors import BadMessage, BadSignature, Forbidden, NotFound, SteelyardError
from steelyard.gateway.catalogue import Catalogue, Seller, seller_headers, seller_stamp
from steelyard.gateway.chain_view import CourtRecord, OfferTerms, Position, ServiceTerms
from steelyard.gateway.pay_lane import PayLane
from steelyard.gateway.routing import FAILURES_TO_OPEN
from steelyard.link.port import SignedOffer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState
from steelyard.protocol.messages import Lane, Offer
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.echo import EchoService
from steelyard.services.manifest import Manifest, encode_manifest, manifest_digest

DOMAIN = Domain(1, b"\x05" * 32)
KEY = SigningKey(b"\x02" * 32)
MANIFEST = EchoService.describe("echo-1")
BLOB = encode_manifest(MANIFEST)
OFFER = Offer(KEY.account, service_id("echo-1"), 10, 20, 4, manifest_digest(BLOB), 1)


@dataclass
class _Chain:
    active: bool = True
    service: ServiceTerms | None = field(
        default_factory=lambda: ServiceTerms("echo-1", "echo", manifest_digest(BLOB), b"\x09" * 20)
    )
    offer: OfferTerms | None = field(default_factory=lambda: OfferTerms(10, 20, 4, manifest_digest(BLOB), 1))

    async def fetch_position(self, gateway: bytes, lane_keys: Sequence[bytes]) -> Position:
        raise NotImplementedError

    async def fetch_is_active(self, provider: bytes) -> bool:
        return self.active

    async def fetch_stake(self, provider: bytes) -> int:
        return 10**15

    async def fetch_court_record(self, provider: bytes, service_id: bytes) -> CourtRecord:
        return CourtRecord()

    async def fetch_is_validator(self, account: bytes) -> bool:
        return False

    async def fetch_service(self, ident: bytes) -> ServiceTerms | None:
        return self.service

    async def fetch_offer(self, provider: bytes, ident: bytes) -> OfferTerms | None:
        return self.offer


class _Link:
    session, offers, is_up, calls_in_flight = b"s", (), True, 0

    def __init__(self, provider: bytes) -> None:
        self.provider = provider


def _bind(manifest: Manifest) -> Any:
    if manifest.kind != "echo":
        raise NotFound("no such kind")
    return EchoService(manifest)


def _sign(offer: Offer = OFFER, key: SigningKey = KEY, blob: bytes = BLOB, name: str = "echo-1") -> SignedOffer:
    return SignedOffer(offer, key.sign(DOMAIN.digest(offer.struct_hash())), name, blob)


def _verify(signed: SignedOffer, chain: _Chain | None = None) -> Any:
    catalogue = Catalogue(chain or _Chain(), DOMAIN, _bind)
    return asyncio.run(catalogue.verify_offers(KEY.account, [signed]))


def _chosen(choice: tuple[Seller, bytes] | None) -> Seller:
    assert choice is not None
    return choice[0]


def test_honest_offer_gets_in() -> None:
    """Signed, on record, with its manifest: on sale."""
    (verified,) = _verify(_sign())
    assert verified.manifest == MANIFEST


OTHER = encode_manifest(msgspec.structs.replace(MANIFEST, description="another"))


@pytest.mark.parametrize(
    ("signed", "chain", "error"),
    [
        (_sign(), _Chain(active=False), Forbidden),
        (_sign(key=SigningKey(b"\x03" * 32)), _Chain(), BadSignature),
        (_sign(msgspec.structs.replace(OFFER, provider=b"\x01" * 20)), _Chain(), BadMessage),
        (_sign(name="echo-2"), _Chain(), BadMessage),
        (_sign(msgspec.structs.replace(OFFER, grade=9)), _Chain(), BadMessage),
        (_sign(blob=OTHER), _Chain(), BadMessage),
        (_sign(), _Chain(service=None), Forbidden),
        (_sign(), _Chain(service=ServiceTerms("echo-1", "echo", b"\x01" * 32, b"")), Forbidden),
        (_sign(), _Chain(service=ServiceTerms("echo-1", "chat", manifest_digest(BLOB), b"")), Forbidden),
        (_sign(), _Chain(offer=None), Forbidden),
        (_sign(), _Chain(offer=OfferTerms(10, 21, 4, manifest_digest(BLOB), 1)), Forbidden),
        (_sign(), _Chain(offer=OfferTerms(10, 20, 4, ZERO32, 2)), Forbidden),
        (
            _sign(msgspec.structs.replace(OFFER, grade=5)),
            _Chain(offer=OfferTerms(10, 20, 5, manifest_digest(BLOB), 1)),
            Forbidden,
        ),
    ],
)
def test_offer_with_one_fault_is_turned_away(signed: SignedOffer, chain: _Chain, error: type[SteelyardError]) -> None:
    """Whatever lies, the provider doesn't get in."""
    with pytest.raises(error):
        _verify(signed, chain)


def test_offer_of_a_kind_that_is_not_installed_is_turned_away() -> None:
    """The refusal names the kind."""
    manifest = replace_kind("rpc")
    blob = encode_manifest(manifest)
    offer = msgspec.structs.replace(OFFER, manifest=manifest_digest(blob))
    terms = OfferTerms(10, 20, 4, manifest_digest(blob), 1)
    chain = replace(_Chain(), service=ServiceTerms("echo-1", "rpc", manifest_digest(blob), b""), offer=terms)
    with pytest.raises(Forbidden, match="rpc"):
        _verify(_sign(offer, blob=blob), chain)


def replace_kind(kind: str) -> Manifest:
    """Return the manifest under another kind."""
    return msgspec.structs.replace(MANIFEST, kind=kind)


def test_choice_passes_over_the_tried_the_refused_and_the_broken() -> None:
    """Nobody who isn't well is asked, and the reasons are told."""
    catalogue = Catalogue(_Chain(), DOMAIN, _bind)
    (verified,) = _verify(_sign())
    sellers = []
    for number in range(3):
        link = _Link(bytes([number]) * 20)
        lane = Lane(b"\x01" * 20, link.provider, OFFER.service_id, number)
        sellers.append(catalogue.list_seller(link, verified, PayLane(lane.key, LaneState(lane=lane))))  # type: ignore[arg-type]
    listing = catalogue.listings["echo-1"]
    sellers[0].refusal = "stake_inactive"
    for _ in range(FAILURES_TO_OPEN):
        sellers[1].record.add_failure("engine_error", 0.0)
    assert _chosen(listing.choose([], b"", 1.0, 0.5)) is sellers[2]
    assert listing.choose([sellers[2]], b"", 1.0, 0.5) is None
    reasons = dict(listing.reasons(1.0))
    assert reasons[sellers[0].link.provider] == "stake_inactive"
    assert "breaker_open" in reasons[sellers[1].link.provider]
    assert listing.retry_after_s(1.0) < 2.5
    assert _chosen(listing.choose([sellers[2]], b"", 10.0, 0.5)) is sellers[1]
    assert listing.choose([sellers[2]], b"", 10.0, 0.5) is None


def test_choice_takes_the_challenged_only_where_nobody_else_is_well() -> None:
    """An open case costs a provider its calls while others are there, and no client its answer."""
    catalogue = Catalogue(_Chain(), DOMAIN, _bind)
    (verified,) = _verify(_sign())
    sellers = []
    for number in range(3):
        link = _Link(bytes([number]) * 20)
        lane = Lane(b"\x01" * 20, link.provider, OFFER.service_id, number)
        sellers.append(catalogue.list_seller(link, verified, PayLane(lane.key, LaneState(lane=lane))))  # type: ignore[arg-type]
    listing = catalogue.listings["echo-1"]
    sellers[0].is_challenged = True
    chosen = [_chosen(listing.choose([], b"", 1.0, luck / 50)) for luck in range(50)]
    assert sellers[0] not in chosen
    assert {sellers[1], sellers[2]} == set(chosen)
    assert _chosen(listing.choose(sellers[1:], b"", 1.0, 0.5)) is sellers[0]


def test_names_that_look_alike_are_suggested() -> None:
    """The nearest first; what is on sale if nothing is near."""
    catalogue = Catalogue(_Chain(), DOMAIN, _bind)
    (verified,) = _verify(_sign())
    lane = Lane(b"\x01" * 20, KEY.account, OFFER.service_id, 1)
    catalogue.list_seller(_Link(KEY.account), verified, PayLane(lane.key, LaneState(lane=lane)))  # type: ignore[arg-type]
    assert catalogue.nearest_names("eco-1") == ["echo-1"]
    assert catalogue.nearest_names("zzzzzz") == ["echo-1"]
    assert catalogue.name_of(OFFER.service_id) == "echo-1"


def test_manifest_words_cannot_break_out_of_a_header() -> None:
    """A quantisation with a line break or a percent sign is only text."""
    manifest = msgspec.structs.replace(MANIFEST, quantisation="Q4\r\nset-cookie: x=100%")
    headers = seller_headers(OFFER, "echo-1", manifest)
    assert all(b"\r" not in value and b"\n" not in value for _, value in headers)
    stamp = seller_stamp(headers) % (b"ab", b"cd", 7)
    assert msgspec.json.decode(stamp)["quantisation"].endswith("x=100%")
    assert msgspec.json.decode(stamp)["cost_nano"] == 7
