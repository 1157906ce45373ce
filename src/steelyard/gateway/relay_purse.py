"""What the gateway asks of providers for itself: ordinary orders at one seller, paid from an allowance of its own.

1. The calls are of the gateway's own account `KEY_ID`: no customer's key pays. They go to one seller, whatever is
   thought of it; to that seller they look as any client's.
2. An allowance an hour bounds what is spent; where it is used up nothing is asked.
3. What isn't answered in `PATIENCE_S` is given up, and counts as unanswered.

Law: docs/spec/relay.md, section 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from steelyard.errors import Refusal
from steelyard.gateway.access import Account
from steelyard.gateway.relay_plan import API
from steelyard.storage.keys import ApiKey

if TYPE_CHECKING:
    from steelyard.gateway.attempt import Attempt
    from steelyard.gateway.dispatch import Dispatcher
    from steelyard.gateway.listing import Listing, Seller

KEY_ID = "relay-watch"
"""Whose calls these are in the database: a budget without a limit, since the allowance is the limit."""

PATIENCE_S = 10.0
HOUR_S = 3_600.0


class Purse:
    """Buys answers for the gateway itself.

    Args:
        hourly_nano: spent in an hour at most; as much can be saved up. clock: monotonic seconds.
    """

    def __init__(self, dispatcher: Dispatcher, hourly_nano: int, clock: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        self._hourly_nano = hourly_nano
        self._clock = clock
        self._left_nano = float(hourly_nano)
        self._filled_s = clock()
        self._account = Account(ApiKey(KEY_ID, KEY_ID, "", None, None, None, 0, 0, 0, 0), clock())
        self.spent_nano = 0

    async def ask(self, listing: Listing, seller: Seller, body: bytes) -> Attempt | None:
        """Return a seller's good answer to a JSON-RPC body; None if there is none, or nothing left to pay it with."""
        now_s = self._clock()
        added = (now_s - self._filled_s) * self._hourly_nano / HOUR_S
        self._left_nano, self._filled_s = min(self._left_nano + added, self._hourly_nano), now_s
        try:
            job = self._dispatcher.build_job(
                self._account, listing, listing.service.parse(API, body), body, is_private=False, started_s=now_s
            )
            if self._dispatcher.max_cost(job, seller) > self._left_nano:
                return None
            attempt = await self._dispatcher.place_at(job, seller)
        except Refusal:
            return None
        # What is in flight counts as spent: others ask meanwhile.
        held_nano = attempt.request.order.max_cost
        self._left_nano -= held_nano
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not attempt.is_over:
                    await attempt.wait()
        except TimeoutError:
            attempt.drop()
        except asyncio.CancelledError:
            attempt.drop()
            raise
        cost_nano = held_nano if attempt.receipt is None else attempt.receipt.cost
        self._left_nano += held_nano - cost_nano
        self.spent_nano += cost_nano
        return attempt if attempt.receipt is not None and attempt.out and attempt.shortfall is None else None
