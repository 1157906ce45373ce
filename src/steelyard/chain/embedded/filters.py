"""Filters that clients poll: a cursor over committed blocks each, so that they hold nothing that could grow.

1. A filter that nobody polls for five minutes is forgotten.
2. There are no reorganisations, so a change is never taken back.

Law: docs/spec/embedded-chain.md, section 6.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from steelyard.chain.embedded.params import LogQuery
from steelyard.errors import RateLimited, Refusal

FILTER_LIFETIME_S = 300.0
MAX_FILTERS = 1_000

Kind = Literal["logs", "blocks", "transactions"]


@dataclass(slots=True)
class Filter:
    """What a client polls; `next_block` is the first that it hasn't been told of."""

    kind: Kind
    next_block: int
    polled_at: float
    query: LogQuery | None = None


class Filters:
    """The installed filters of all clients, by id."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._filters: dict[str, Filter] = {}

    def install(self, kind: Kind, head: int, query: LogQuery | None = None) -> str:
        """Return the id of a new filter for what follows block `head`; raises RateLimited when there are too many."""
        now = self._clock()
        for filter_id, known in list(self._filters.items()):
            if now - known.polled_at > FILTER_LIFETIME_S:
                del self._filters[filter_id]
        if len(self._filters) >= MAX_FILTERS:
            raise RateLimited(f"too many filters: {MAX_FILTERS} are installed; uninstall some")
        filter_id = "0x" + secrets.token_hex(16)
        self._filters[filter_id] = Filter(kind, head + 1, now, query)
        return filter_id

    def get(self, filter_id: str) -> Filter:
        """Return a filter, and note that somebody still polls it; raises Refusal when there is none."""
        known = self._filters.get(filter_id)
        now = self._clock()
        if known is None or now - known.polled_at > FILTER_LIFETIME_S:
            self._filters.pop(filter_id, None)
            raise Refusal("filter not found", code="filter_not_found")
        known.polled_at = now
        return known

    def uninstall(self, filter_id: str) -> bool:
        """Forget a filter; tell whether there was one."""
        return self._filters.pop(filter_id, None) is not None
