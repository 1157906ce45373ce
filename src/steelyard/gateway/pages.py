"""The cold routes: models, calls, the network, health and metrics.

1. All of `/v1` but `/v1/network` asks for a key. Health and metrics don't: bind them where only you can reach.
2. `/readyz` says no with every reason; `/healthz` says that the process answers.

Law: docs/spec/gateway.md, sections 1 and 7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from steelyard.chain.deployment import Deployment
from steelyard.errors import NotFound
from steelyard.gateway.access import Access
from steelyard.gateway.calls_view import CallsView
from steelyard.gateway.catalogue import Catalogue, Listing, Seller, grade_name
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.replies import Reply, json_reply
from steelyard.gateway.watch import ChainSight
from steelyard.protocol.ids import format_hex
from steelyard.services.manifest import encode_manifest, manifest_digest

METRICS_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Address:
    """Where this gateway is found, known once it listens."""

    base_url: str
    link_url: str


class Pages:
    """Answers GET requests that buy nothing.

    Args:
        account: the gateway's own 20 bytes. why_unready: every reason not to send traffic here.
    """

    def __init__(
        self,
        deployment: Deployment,
        account: bytes,
        access: Access,
        catalogue: Catalogue,
        calls: CallsView,
        metrics: Metrics,
        sight: ChainSight,
        *,
        why_unready: Callable[[], Awaitable[list[str]]],
        clock: Callable[[], float],
    ) -> None:
        self.address = Address("", "")
        self.list_links: Callable[[], Sequence[str]] = lambda: (self.address.link_url,)
        self._deployment = deployment
        self._account = account
        self._access = access
        self._catalogue = catalogue
        self._calls = calls
        self._metrics = metrics
        self._sight = sight
        self._why_unready = why_unready
        self._clock = clock

    async def answer(self, path: str, query: bytes, headers: dict[bytes, bytes]) -> Reply:
        """Return the reply to GET `path`; raises a Refusal, NotFound for a path that isn't there."""
        if path == "/healthz":
            return json_reply({"status": "ok"})
        if path == "/readyz":
            reasons = await self._why_unready()
            return json_reply(
                {"status": "unready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200
            )
        if path == "/metrics":
            return Reply(200, self._metrics.render(), (METRICS_TYPE,))
        if path == "/v1/network":
            return json_reply(self._network())
        if path != "/v1/models" and path != "/v1/calls" and not path.startswith(("/v1/models/", "/v1/calls/")):
            raise NotFound(f"there is no route GET {path[:200]!r}: see docs/spec/gateway.md", code="unknown_url")
        account = await self._access.admit(headers.get(b"authorization"))
        await self._access.take_turn(account)
        if path == "/v1/models":
            listings = sorted(self._catalogue.listings.values(), key=lambda listing: listing.name)
            return json_reply({"object": "list", "data": [self._model(one) for one in listings if one.sellers]})
        if path.startswith("/v1/models/"):
            listing = self._listing(path.removeprefix("/v1/models/"))
            model = self._model(listing)
            model["steelyard"]["offers"] = [self._offer(seller) for seller in listing.sellers]
            return json_reply(model)
        if path == "/v1/calls":
            values = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
            return json_reply(await self._calls.list(account, values))
        return json_reply(await self._calls.show(account, path.removeprefix("/v1/calls/")))

    def _listing(self, name: str) -> Listing:
        listing = self._catalogue.listings.get(name)
        if listing is None:
            near = ", ".join(self._catalogue.nearest_names(name)) or "none is on sale now"
            raise NotFound(
                f"there is no model {name[:80]!r}; the nearest: {near}", code="model_not_found", param="model"
            )
        return listing

    def _model(self, listing: Listing) -> dict[str, Any]:
        now_s = self._clock()
        manifest, offers = listing.manifest, [seller.offer for seller in listing.sellers]
        return {
            "id": listing.name,
            "object": "model",
            "created": manifest.created,
            "owned_by": manifest.owned_by,
            "steelyard": {
                "kind": manifest.kind,
                "description": manifest.description,
                "service_id": format_hex(listing.service_id),
                "manifest_sha256": manifest_digest(encode_manifest(manifest)).hex(),
                "providers": sum(not seller.why_not(now_s) for seller in listing.sellers),
                "providers_known": len(offers),
                "price_in_nano_per_million": _span([offer.price_in for offer in offers]),
                "price_out_nano_per_million": _span([offer.price_out for offer in offers]),
                "grades": sorted({grade_name(offer.grade) for offer in offers}),
                "quantisation": manifest.quantisation,
                "engine": manifest.engine,
                "context_tokens": manifest.context_tokens,
                "max_tokens_default": manifest.max_tokens_default,
                "embedding_dimension": manifest.embedding_dimension,
                "parameters": list(manifest.parameters),
            },
        }

    def _offer(self, seller: Seller) -> dict[str, Any]:
        return {
            "provider": format_hex(seller.link.provider),
            "price_in_nano_per_million": seller.offer.price_in,
            "price_out_nano_per_million": seller.offer.price_out,
            "grade": grade_name(seller.offer.grade),
            "region": seller.region or None,
            "why_not": seller.why_not(self._clock()) or None,
        }

    def _network(self) -> dict[str, Any]:
        deployment, position = self._deployment, self._sight.position
        return {
            "object": "steelyard.network",
            "chain_id": deployment.chain_id,
            "deployment": format_hex(deployment.salt),
            "contracts": {
                name: format_hex(getattr(deployment, name))
                for name in ("manager", "yard", "registry", "escrow", "ledger")
            },
            "gateway": format_hex(self._account),
            "deposit_address": format_hex(deployment.escrow),
            "base_url": self.address.base_url,
            "link_url": self.address.link_url,
            "link_urls": list(self.list_links()),
            "quality": self._quality(),
            "escrow": None
            if position is None
            else {
                "deposit_nano": position.escrow.deposit_nano,
                "owed_nano": position.escrow.owed_nano,
                "withdrawal_nano": position.escrow.withdrawal_nano,
                "stake_nano": position.escrow.stake_nano,
            },
        }

    def _quality(self) -> dict[str, Any] | None:
        """What validators say of providers; None while they have said nothing."""
        seen = self._sight.quality
        if seen.epoch is None:
            return None
        providers = [
            {
                "provider": format_hex(provider),
                "service_id": format_hex(service),
                "service": self._catalogue.name_of(service),
                "quality_ppm": ppm,
            }
            for (provider, service), ppm in sorted(seen.ppm.items())
        ]
        return {"epoch": seen.epoch, "providers": providers}


def _span(prices: list[int]) -> dict[str, int] | None:
    return {"min": min(prices), "max": max(prices)} if prices else None
