"""What has to be looked at again and again: the deposit on chain, the sellers' standing, vouchers, and what expires.

1. The escrow's budget is what was paid on this database's lanes, and what the deposit still covers (chain_view.py).
2. A seller that lost its stake, or whose offer changed or was withdrawn on chain, gets no call until it is well again;
   one that the court convicted gets none. While a case is open, calls go to others, as long as there are any.
3. A silent chain changes nothing for a while: the gateway serves what it has leased, and says so in `/readyz`.
4. Each beat is a supervisor: an error is logged, counted, and the next beat comes.

Law: docs/spec/gateway.md, section 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from steelyard.errors import SteelyardError
from steelyard.gateway.catalogue import Catalogue, Seller
from steelyard.gateway.chain_view import ChainView, OfferTerms, Position
from steelyard.gateway.crashes import describe_crash
from steelyard.gateway.network_quality import QualityView, SeenQuality
from steelyard.storage.budgets import set_limit
from steelyard.storage.database import Database
from steelyard.storage.lanes import load_lanes
from steelyard.verification.economics import largest_order_nano
from steelyard.verification.quality import PPM, Record, quality_ppm

NEWCOMER_PPM = quality_ppm(Record())

_log = structlog.get_logger("steelyard.gateway")


@dataclass(slots=True)
class ChainSight:
    """What was last seen of the chain."""

    position: Position | None = None
    seen_s: float = float("-inf")
    limit_nano: int | None = None
    trouble: str = "the chain was not read yet"
    quality: SeenQuality = field(default_factory=SeenQuality)


class ChainWatch:
    """Keeps the escrow's budget and the sellers' standing true.

    Args:
        account: the gateway's own. escrow_id: the budget of its deposit. reserve_nano: kept back of it.
        quality: the network's, or None.
    """

    def __init__(
        self,
        chain: ChainView,
        database: Database,
        catalogue: Catalogue,
        *,
        account: bytes,
        escrow_id: str,
        reserve_nano: int,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
        quality: QualityView | None = None,
    ) -> None:
        self.sight = ChainSight()
        self._chain = chain
        self._database = database
        self._catalogue = catalogue
        self._account = account
        self._escrow_id = escrow_id
        self._reserve_nano = reserve_nano
        self._clock = clock
        self._clock_ms = clock_ms
        self._quality = quality

    async def begin(self) -> None:
        """Make sure that the escrow has a budget, before the chain was ever read."""
        try:
            await self.look()
        except SteelyardError as error:
            self._note_trouble(error)
        if self.sight.limit_nano is None:
            await self._set_limit(0)

    async def look(self) -> None:
        """Read the deposit and the lanes, then every seller's standing; raises ChainError."""
        lanes = [
            lane.state.lane.key for lane in await load_lanes(self._database) if lane.state.lane.gateway == self._account
        ]
        position = await self._chain.fetch_position(self._account, lanes)
        self.sight.position = position
        await self._set_limit(position.budget_nano(self._reserve_nano))
        for listing in list(self._catalogue.listings.values()):
            for seller in [seller for seller in listing.sellers if seller.link.is_up]:
                seller.refusal = await self._refusal(seller)
        await self._look_at_quality()
        self.sight.seen_s = self._clock()
        self.sight.trouble = ""

    async def beat(self) -> None:
        """Look once; a chain that doesn't answer is noted."""
        try:
            await self.look()
        except SteelyardError as error:
            self._note_trouble(error)

    async def _refusal(self, seller: Seller) -> str:
        offer = seller.offer
        if not await self._chain.fetch_is_active(offer.provider):
            return "stake_inactive"
        seller.largest_nano = largest_order_nano(await self._chain.fetch_stake(offer.provider))
        on_record = await self._chain.fetch_offer(offer.provider, offer.service_id)
        if on_record != OfferTerms(offer.price_in, offer.price_out, offer.grade, offer.manifest, offer.seq):
            return "offer_changed"
        record = await self._chain.fetch_court_record(offer.provider, offer.service_id)
        seller.is_challenged = record.open_cases > 0
        return "convicted" if record.is_convicted else ""

    async def _look_at_quality(self) -> None:
        if self._quality is None:
            return
        seen = self.sight.quality = await self._quality.fetch()
        for listing in self._catalogue.listings.values():
            for seller in listing.sellers:
                pair = (seller.offer.provider, seller.offer.service_id)
                seller.quality = 1.0 if seen.epoch is None else seen.ppm.get(pair, NEWCOMER_PPM) / PPM

    async def _set_limit(self, limit_nano: int) -> None:
        if limit_nano != self.sight.limit_nano:
            await set_limit(self._database, self._escrow_id, limit_nano, now_ms=self._clock_ms())
            self.sight.limit_nano = limit_nano

    def _note_trouble(self, error: SteelyardError) -> None:
        if not self.sight.trouble or self.sight.position is None:
            _log.warning("chain_unread", code=error.code, reason=error.message)
        self.sight.trouble = f"{error.code}: {error.message}"


async def keep_beating(name: str, every_s: float, beat: Callable[[], Awaitable[object]]) -> None:
    """Call `beat` again and again, until cancelled; whatever it raises is logged, and the next beat comes."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await beat()
        except SteelyardError as error:
            _log.error("beat_failed", beat=name, code=error.code, reason=error.message)
        except Exception as error:  # a supervisor: one bad beat must not stop vouchers or the watch
            _log.error("beat_crashed", beat=name, **describe_crash(error))
