"""Cross-checks: some deterministic reads are asked of two other providers, after the answer has left.

three answers                       what follows
----------------------------------  ---------------------------------------------------------------------------
all the same                        each of the three regains a little trust
one differs, two agree              that one loses most of its share at once and all it has in the cache; an event
all differ, or it isn't clear       nothing but a count: nobody is judged by it
one is silent (null, an error)      nothing: nodes lag and prune

1. Only what has one answer for ever is asked again: by hash, constant, or at a block that is final. Never a private
   call, nor one whose caller says who may serve it: two more providers would read it.
2. Drawn by our own luck, so that no provider can tell which calls are. The gateway pays (relay_purse.py).
3. A disagreement is kept with its three receipts for validators, who may replay the call at a node of their own: this
   gateway's opinion steers its own traffic alone.

Law: docs/spec/relay.md, section 7.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import structlog

from steelyard.services.rpc.comparing import find_odd
from steelyard.storage.events import PeerEvent, record_event

if TYPE_CHECKING:
    from steelyard.gateway.attempt import Attempt
    from steelyard.gateway.listing import Listing, Seller
    from steelyard.gateway.metrics import Metrics
    from steelyard.gateway.randomness import RandomPool
    from steelyard.gateway.relay_cache import RelayCache
    from steelyard.gateway.relay_plan import Plan
    from steelyard.gateway.relay_purse import Purse
    from steelyard.gateway.settlement import Settlement

MAX_AT_ONCE = 8
KEPT = 256
TRUST_KEPT = 0.25
"""Of its trust an odd one keeps this part; below `LEAST_TRUST` nobody falls, or nobody could come back."""

LEAST_TRUST = 0.02
TRUST_REGAINED = 0.05
"""Of what is missing, by each check in which all agree."""

EVENT = "relay_disagreement"
_LUCK = 1 << 32

_log = structlog.get_logger("steelyard.gateway")


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """Three answers to one request, of which two agree; the odd one's provider and receipt first, 0x hex."""

    at_ms: int
    service: str
    providers: tuple[str, str, str]
    receipts: tuple[str, str, str]


class CrossChecks:
    """Asks again and compares.

    Args:
        share: of the deterministic reads, 0 to 1. clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        purse: Purse,
        settlement: Settlement,
        cache: RelayCache,
        metrics: Metrics,
        random: RandomPool,
        *,
        share: float,
        clock_ms: Callable[[], int],
    ) -> None:
        self.kept: deque[Disagreement] = deque(maxlen=KEPT)
        self._purse = purse
        self._settlement = settlement
        self._cache = cache
        self._metrics = metrics
        self._random = random
        self._bound = int(share * _LUCK)
        self._clock_ms = clock_ms
        self._tasks: set[asyncio.Task[None]] = set()

    def consider(self, attempt: Attempt, plan: Plan) -> None:
        """Perhaps ask two others what a provider just answered; returns at once."""
        if not self._bound or not plan.keys or not all(plan.keys) or len(self._tasks) >= MAX_AT_ONCE:
            return
        if attempt.job.preferences is not None:
            return  # the caller said who may see it
        if int.from_bytes(self._random.take(4), "big") >= self._bound:
            return
        witnesses = self._choose(attempt.job.listing, attempt.seller)
        if witnesses is None:
            self._metrics.relay["cross_check", "no_witnesses"] += 1
            return
        task = asyncio.create_task(self._check(attempt, witnesses), name="relay-cross-check")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Give up what is being asked."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _choose(self, listing: Listing, asked: Seller) -> tuple[Seller, Seller] | None:
        now_s = self._settlement.clock()
        able = [
            seller
            for seller in listing.sellers
            if seller.link.provider != asked.link.provider and not seller.why_not(now_s) and not seller.record.doubt
        ]
        if len(able) < 2:
            return None
        first = able.pop(self._random.take(1)[0] % len(able))
        return first, able[self._random.take(1)[0] % len(able)]

    async def _check(self, attempt: Attempt, witnesses: tuple[Seller, Seller]) -> None:
        job = attempt.job
        others = await asyncio.gather(*(self._purse.ask(job.listing, seller, job.body) for seller in witnesses))
        three = [attempt, *others]
        self._metrics.relay["cross_check", self._judge([one for one in three if one is not None])] += 1

    def _judge(self, three: list[Attempt]) -> str:
        if len(three) < 3:
            return "unanswered"
        try:
            verdict = find_odd([one.out[0] for one in three])
        except ValueError:
            return "undecided"
        if not verdict.differing:
            for one in three if verdict.agreed else ():
                one.seller.record.trust += (1.0 - one.seller.record.trust) * TRUST_REGAINED
            return "agreed" if verdict.agreed else "silent"
        if verdict.odd is None:
            return "undecided"
        self._convict(three.pop(verdict.odd), three)
        return "disagreed"

    def _convict(self, odd: Attempt, others: list[Attempt]) -> None:
        record, service = odd.seller.record, odd.job.listing.name
        record.trust = max(LEAST_TRUST, record.trust * TRUST_KEPT)
        record.disagreements += 1
        self._cache.forget_provider(odd.seller.link.provider)
        three = [odd, *others]
        kept = Disagreement(
            at_ms=self._clock_ms(),
            service=service,
            providers=tuple(one.seller.provider_hex for one in three),  # type: ignore[arg-type]  # three
            receipts=tuple("0x" + one.receipt_hash.hex() for one in three),  # type: ignore[arg-type]  # three
        )
        self.kept.append(kept)
        detail = msgspec.json.encode({"service": service, "receipts": kept.receipts, "providers": kept.providers})
        event = PeerEvent(kept.at_ms, odd.seller.provider_hex, EVENT, detail.decode())
        self._settlement.submit_if_room(record_event(event))
        self._metrics.events[EVENT] += 1
        _log.warning(
            "answers_disagreed", provider=odd.seller.provider_hex, service=service, receipt=odd.receipt_hex.decode()
        )
