"""Keeping an eye on the providers of chains: how high they are, which chain they serve, who has old blocks.

question       when it is asked                                 what follows
-------------  -----------------------------------------------  --------------------------------------------------------
height         every `relay_probe_s`, unless an answer to a     stale, or height_outlier: no calls while others are well
               client said it lately; on quiet chains rarely
identity       when a provider comes, then now and then         wrong_chain: no calls, until it is asked again
archive        as often                                         calls for old blocks go first to who has them

1. The questions are the family's (services/rpc/families.json), bought as any client's (relay_purse.py). What passes by
   anyway is heard: answers to the height's own question, and new heads.
2. What is found is written into the records that choices read (routing.py); it is this gateway's own opinion.
3. Nothing here waits: `look` starts what is due, at most `MAX_AT_ONCE` questions at a time.

Law: docs/spec/relay.md, section 7.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from steelyard.errors import BadMessage
from steelyard.gateway.relay_heights import NONE
from steelyard.gateway.relay_plan import family_of
from steelyard.gateway.relay_shapes import read_answered
from steelyard.services.rpc.catalogue import load_chains

if TYPE_CHECKING:
    from steelyard.gateway.attempt import Attempt
    from steelyard.gateway.catalogue import Catalogue
    from steelyard.gateway.listing import Listing, Seller
    from steelyard.gateway.metrics import Metrics
    from steelyard.gateway.relay_cache import RelayCache
    from steelyard.gateway.relay_heights import Heights
    from steelyard.gateway.relay_purse import Purse
    from steelyard.services.rpc.catalogue import Family, Probe

KIND = "rpc"
MAX_AT_ONCE = 16
QUIET_S = 600.0
QUIET_FACTOR = 6
"""A chain that nobody asked for in `QUIET_S` is asked so many times less often."""

RARE_FACTOR = 30
"""Identity and archive are asked so many times less often than heights."""

ARCHIVE_DEPTH = 128
"""Blocks deeper than this may be had from archives alone: what common nodes keep the state of."""

USUAL_BLOCK_S = 12.0

_log = structlog.get_logger("steelyard.gateway")


@dataclass(slots=True)
class _Asked:
    """When a seller was last asked what; a new link is asked anew."""

    link: object
    height_s: float = -math.inf
    rare_s: float = -math.inf


class RelayWatch:
    """Asks and judges the sellers of one gateway's chains; `clock` is monotonic seconds, `probe_s` 0 asks nothing."""

    def __init__(
        self,
        catalogue: Catalogue,
        purse: Purse,
        heights: Heights,
        cache: RelayCache,
        metrics: Metrics,
        *,
        probe_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.heights = heights
        self._catalogue = catalogue
        self._purse = purse
        self._cache = cache
        self._metrics = metrics
        self._probe_s = probe_s
        self._clock = clock
        self._asked: dict[tuple[str, bytes], _Asked] = {}
        self._wanted_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """Ask what is due, and judge everyone by what is known; called once a second."""
        now_s = self._clock()
        for listing in self._catalogue.listings.values():
            if listing.manifest.kind == KIND:
                self._judge(listing, now_s)
                if self._probe_s:
                    self._ask_due(listing, now_s)

    def note_height(self, listing: Listing, provider: bytes, height: int) -> None:
        """Take a height that passed by."""
        self.heights.note(listing.name, provider, height, self._clock())

    def note_answer(self, attempt: Attempt) -> None:
        """Take a good answer to a client; it holds a height if that was what was asked."""
        listing, payload = attempt.job.listing, attempt.job.request.payload
        family = family_of(listing)
        self._wanted_s[listing.name] = attempt.ended_s
        if family is None or payload.is_batch or payload.items[0].method != family.height.method:
            return
        height = family.height.pick_number(_result_of(attempt))
        if height is not None:
            self.note_height(listing, attempt.seller.link.provider, height)

    def is_deep(self, listing: Listing, oldest: int | None, now_s: float) -> bool:
        """Say whether a request for a block is for an archive. `oldest`: its number, None if it names none."""
        if oldest is None:
            return False
        height = self.heights.find(listing.name, now_s)
        return height is not None and height - oldest > ARCHIVE_DEPTH

    async def aclose(self) -> None:
        """Give up what is being asked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _judge(self, listing: Listing, now_s: float) -> None:
        row = load_chains().get(listing.manifest.chain)
        linked = [seller.link.provider for seller in listing.sellers if seller.link.is_up]
        doubts = self.heights.judge(listing.name, linked, USUAL_BLOCK_S if row is None else row.block_s, now_s)
        for seller in listing.sellers:
            doubt = doubts.get(seller.link.provider, "")
            if bool(doubt) != bool(seller.record.doubt):
                _log.info("provider_doubted", provider=seller.provider_hex, service=listing.name, doubt=doubt)
                self._metrics.relay["doubt", doubt.partition(":")[0] or "cleared"] += 1
            seller.record.doubt = doubt

    def _ask_due(self, listing: Listing, now_s: float) -> None:
        family = family_of(listing)
        if family is None or not family.height.method:
            return
        is_quiet = now_s - self._wanted_s.setdefault(listing.name, now_s) > QUIET_S
        every_s = self._probe_s * (QUIET_FACTOR if is_quiet else 1)
        for seller in listing.sellers:
            record, provider = seller.record, seller.link.provider
            if not seller.link.is_up or seller.refusal or (not record.bar and record.why_not(now_s)):
                continue
            if len(self._tasks) >= MAX_AT_ONCE:
                return
            asked = self._asked.get((listing.name, provider))
            if asked is None or asked.link is not seller.link:
                asked = self._asked[listing.name, provider] = _Asked(seller.link)
            if now_s - asked.rare_s >= self._probe_s * RARE_FACTOR:
                asked.rare_s = now_s
                self._start(self._ask_rare(listing, family, seller))
            heard_s = max(asked.height_s, self.heights.since_s(listing.name, provider))
            if not record.bar and now_s - heard_s >= every_s:
                asked.height_s = now_s
                self._start(self._ask_height(listing, family.height, seller))

    def _start(self, asking: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(asking, name="relay-question")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_height(self, listing: Listing, probe: Probe, seller: Seller) -> None:
        attempt = await self._ask(listing, seller, probe)
        self._metrics.relay["height", "unanswered" if attempt is None else "answered"] += 1
        if attempt is not None:
            height = probe.pick_number(_result_of(attempt))
            self.note_height(listing, seller.link.provider, NONE if height is None else height)
            self._judge(listing, self._clock())

    async def _ask_rare(self, listing: Listing, family: Family, seller: Seller) -> None:
        row = load_chains().get(listing.manifest.chain)
        if row is not None:
            attempt = await self._ask(listing, seller, family.identity)
            found = None if attempt is None else family.identity.pick(_result_of(attempt))
            if found is not None:
                self._identify(listing, seller, "" if row.is_identity(found) else f"{found[:80]}, not {row.chain_id}")
        if family.archive is not None and not seller.record.bar:
            attempt = await self._ask(listing, seller, family.archive)
            if attempt is not None:
                seller.record.is_archival = family.archive.pick(_result_of(attempt)) is not None

    def _identify(self, listing: Listing, seller: Seller, other: str) -> None:
        if bool(other) != bool(seller.record.bar):
            _log.warning("provider_identified", provider=seller.provider_hex, service=listing.name, wrong=other)
            self._metrics.relay["identity", "wrong" if other else "right"] += 1
        seller.record.bar = f"wrong_chain: it serves {other}" if other else ""
        if other:
            self._cache.forget_provider(seller.link.provider)

    async def _ask(self, listing: Listing, seller: Seller, probe: Probe) -> Attempt | None:
        body = b'{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}' % (
            probe.method.encode(),
            msgspec.json.encode(probe.params),
        )
        return await self._purse.ask(listing, seller, body)


def _result_of(attempt: Attempt) -> object:
    """The decoded result of a single request's answer; None for an error."""
    try:
        (answered,) = read_answered(attempt.out[0], is_batch=False)
        return msgspec.json.decode(answered.result) if answered.result else None
    except (BadMessage, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
