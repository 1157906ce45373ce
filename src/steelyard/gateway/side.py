"""The gateway's end of every link: admits providers, puts them on sale, takes their batches and claims.

1. A provider is admitted with all its offers verified, or not at all; its lanes are on disk before they are used.
2. Whoever breaks the rules is refused by the link, and the event is recorded here.

Law: docs/spec/gateway.md, section 4; docs/spec/link.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from steelyard.errors import ChainError, SteelyardError
from steelyard.gateway.catalogue import Catalogue, Seller, VerifiedOffer
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.payer import Payer
from steelyard.gateway.settlement import Settlement
from steelyard.link.port import LaneClaim, LeafEntry, ProviderLink, SignedOffer
from steelyard.protocol.lanes import LaneState, SignedBatch
from steelyard.storage.events import PeerEvent, record_event

UNPROVEN_EVERY_S = 1.0

_log = structlog.get_logger("steelyard.gateway")


class ProviderSide:
    """Implements `link.port.GatewaySide`.

    Args:
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        payer: Payer,
        settlement: Settlement,
        metrics: Metrics,
        *,
        clock_ms: Callable[[], int],
    ) -> None:
        self._catalogue = catalogue
        self._payer = payer
        self._settlement = settlement
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._unproven_s = float("-inf")
        self._renewing = asyncio.Lock()
        self._admitted: dict[bytes, list[VerifiedOffer]] = {}

    async def admit_provider(self, provider: bytes, offers: Sequence[SignedOffer]) -> None:
        """See `link.port.GatewaySide`."""
        verified = await self._catalogue.verify_offers(provider, offers)
        await self._payer.open_lanes(provider, [offer.offer.service_id for offer in verified])
        self._admitted[provider] = verified

    def known_lanes(self, provider: bytes) -> Sequence[LaneState]:
        """See `link.port.GatewaySide`."""
        return self._payer.known_lanes(provider)

    def on_link_up(self, link: ProviderLink) -> None:
        """See `link.port.GatewaySide`."""
        self._catalogue.delist_provider(link.provider)
        for verified in self._admitted.get(link.provider, ()):
            lane = self._payer.lane_for(link.provider, verified.offer.service_id)
            self._catalogue.list_seller(link, verified, lane)
        self._payer.attach(link)
        _log.info("provider_linked", provider=link.provider.hex(), services=len(self._admitted.get(link.provider, ())))

    async def renew_lane(self, seller: Seller) -> None:
        """Go on with a new lane where the provider lost the history of the one in use."""
        async with self._renewing:
            if self._payer.retire(seller.lane):
                provider = seller.offer.provider
                await self._payer.open_lanes(provider, [seller.offer.service_id])
                if seller.link.is_up:
                    self.on_link_up(seller.link)

    def on_link_down(self, link: ProviderLink, reason: str) -> None:
        """See `link.port.GatewaySide`."""
        self._payer.detach(link)
        _log.info("provider_unlinked", provider=link.provider.hex(), reason=reason)

    async def on_batch(
        self, link: ProviderLink, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> None:
        """See `link.port.GatewaySide`."""
        await self._payer.take_batch(link, signed, call_ids, entries)

    async def on_claim(self, link: ProviderLink, claim: LaneClaim) -> None:
        """See `link.port.GatewaySide`."""
        await self._payer.take_claim(link, claim)

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        """See `link.port.GatewaySide`."""
        peer = "unproven" if account is None else "0x" + account.hex()
        self._metrics.events[error.code] += 1
        if account is None:
            # Anyone can be refused unproven, as often as they like: all are counted, one a second is told and kept.
            now_s = self._settlement.clock()
            if now_s - self._unproven_s < UNPROVEN_EVERY_S:
                return
            self._unproven_s = now_s
        _log.warning("peer_refused", peer=peer, code=error.code, reason=error.message[:500])
        if not isinstance(error, ChainError):
            event = PeerEvent(self._clock_ms(), peer, error.code, error.message)
            self._settlement.submit_if_room(record_event(event))
