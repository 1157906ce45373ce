"""The relay as the application sees it: one door for JSON-RPC, REST and sockets.

Law: docs/spec/relay.md, section 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steelyard.gateway.relay import Describe, Relay
from steelyard.gateway.relay_cache import RelayCache
from steelyard.gateway.relay_checks import CrossChecks
from steelyard.gateway.relay_heights import Heights
from steelyard.gateway.relay_purse import Purse
from steelyard.gateway.relay_rest import RestFront
from steelyard.gateway.relay_routes import RPC, RelayRoute, read_route
from steelyard.gateway.relay_socket import RelaySockets
from steelyard.gateway.relay_watch import RelayWatch
from steelyard.gateway.replies import BEGUN, Header, Receive, Scope, Send

if TYPE_CHECKING:
    from steelyard.gateway.access import Access
    from steelyard.gateway.catalogue import Catalogue
    from steelyard.gateway.dispatch import Dispatcher
    from steelyard.gateway.hangups import HangupWatch
    from steelyard.gateway.metrics import Metrics
    from steelyard.gateway.randomness import RandomPool
    from steelyard.gateway.replays import Replays
    from steelyard.gateway.settings import GatewaySettings
    from steelyard.gateway.settlement import Settlement
    from steelyard.gateway.work import Work


class RelayFronts:
    """All fronts of one gateway's relay; `relay.begin` and `relay.keep` are the way below ASGI."""

    def __init__(
        self,
        settings: GatewaySettings,
        access: Access,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        work: Work,
        replays: Replays,
        hangups: HangupWatch,
        settlement: Settlement,
        metrics: Metrics,
        random: RandomPool,
        *,
        why_full: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        cache = RelayCache(settings.relay_cache_bytes, settings.relay_cache_s)
        self.purse = Purse(dispatcher, settings.relay_watch_nano, clock)
        self.watch = RelayWatch(
            catalogue, self.purse, Heights(), cache, metrics, probe_s=settings.relay_probe_s, clock=clock
        )
        self.checks = CrossChecks(
            self.purse,
            settlement,
            cache,
            metrics,
            random,
            share=settings.relay_cross_check_share,
            clock_ms=settlement.clock_ms,
        )
        self.relay = Relay(
            settings,
            access,
            catalogue,
            dispatcher,
            work,
            replays,
            hangups,
            metrics,
            cache,
            watch=self.watch,
            checks=self.checks,
            why_full=why_full,
            clock=clock,
        )
        self.rest = RestFront(self.relay, dispatcher, work, hangups, clock=clock)
        self.sockets = RelaySockets(self.relay, random)

    async def answer(
        self,
        route: RelayRoute,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: tuple[Header, ...],
        describe: Describe,
    ) -> int:
        """Answer one HTTP request and return the status; a REST refusal is raised, as everywhere."""
        method = scope["method"]
        if route.front == RPC:
            return await self.relay.answer(route, method, headers, receive, send, extra, describe, scope.get(BEGUN))
        query: bytes = scope.get("query_string", b"")
        raw_path: bytes = scope["raw_path"]  # with its escapes, which a path without them would lose
        route = read_route(raw_path.decode("latin-1"), headers) or route
        return await self.rest.answer(route, method, query, headers, receive, send, extra)

    async def aclose(self) -> None:
        """Give up the gateway's own questions."""
        await self.watch.aclose()
        await self.checks.aclose()

    def gauges(self) -> dict[str, float]:
        """Return what `/metrics` shows of the relay, as of now."""
        cache = self.relay.cache
        return {
            "relay_sockets": self.sockets.count,
            "relay_cache_entries": len(cache),
            "relay_cache_bytes": cache.size_bytes,
            "relay_cache_hits": cache.hits,
            "relay_cache_misses": cache.misses,
            "relay_watch_spent_nano": self.purse.spent_nano,
        }
