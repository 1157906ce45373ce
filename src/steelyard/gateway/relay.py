"""JSON-RPC over HTTP: from a request's bytes to its answer, by the one road that all work takes.

1. Refusals come in this order: key, chain, size, rate, Idempotency-Key, JSON-RPC, load, budget, escrow, providers.
2. A body is one order at most; what is refused or known here is left out of it (relay_plan.py). A provider that fails
   is replaced before the first byte (work.py).
3. Every refusal carries JSON-RPC's error object with the request's own id; those of the network keep their HTTP status.
4. `begin` is the hot path: it sends an order, or knows an answer, without waiting, a task or ASGI.
5. No key, request or answer is logged.

Law: docs/spec/relay.md, sections 1 to 3.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.errors import BadRequest, NotFound, SteelyardError, Unavailable
from steelyard.gateway.hangups import Patient
from steelyard.gateway.preferences import Preferences, read_preferences
from steelyard.gateway.relay_cache import CachedAnswer, RelayCache
from steelyard.gateway.relay_errors import read_ids, refusal_reply
from steelyard.gateway.relay_plan import API, Plan, cache_header, make_plan
from steelyard.gateway.relay_routes import REST, RPC, RelayRoute
from steelyard.gateway.relay_shapes import RpcShape
from steelyard.gateway.replies import JSON_HEADER, Header, Receive, Reply, Send, error_reply, send_reply
from steelyard.gateway.request_bodies import ClientGone, is_private, read_body
from steelyard.services.rpc.catalogue import find_chain, nearest_chains

if TYPE_CHECKING:
    from steelyard.gateway.access import Access, Account
    from steelyard.gateway.attempt import Attempt
    from steelyard.gateway.catalogue import Catalogue
    from steelyard.gateway.dispatch import Dispatcher
    from steelyard.gateway.hangups import HangupWatch
    from steelyard.gateway.job import Job
    from steelyard.gateway.listing import Listing
    from steelyard.gateway.metrics import Metrics
    from steelyard.gateway.relay_checks import CrossChecks
    from steelyard.gateway.relay_watch import RelayWatch
    from steelyard.gateway.replays import Replays
    from steelyard.gateway.settings import GatewaySettings
    from steelyard.gateway.work import Work

KIND = "rpc"
SUBSCRIBE = "rpc.subscribe"
SMALL_BODY_BYTES = 64 * 1024

Describe = Callable[[Exception], SteelyardError]
"""Logs and counts an error and returns what a client may be told of it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, of which service, whether in private, and of whose providers."""

    account: Account
    listing: Listing
    is_private: bool
    preferences: Preferences | None = None


class Relay:
    """The JSON-RPC front of one gateway.

    Args:
        watch: knows how high each chain is believed to be, and learns from what passes by. checks: ask two others.
        why_full: why no call is taken now, or an empty string. clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        access: Access,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        work: Work,
        replays: Replays,
        hangups: HangupWatch,
        metrics: Metrics,
        cache: RelayCache,
        *,
        watch: RelayWatch,
        checks: CrossChecks,
        why_full: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.access = access
        self.cache = cache
        self.clock = clock
        self.why_full = why_full
        self._catalogue = catalogue
        self._dispatcher = dispatcher
        self._work = work
        self._replays = replays
        self._hangups = hangups
        self._metrics = metrics
        self.watch = watch
        self.checks = checks

    def begin(self, route: RelayRoute, headers: dict[bytes, bytes], body: bytes) -> Attempt | Reply | None:
        """Send the order for one body at once, or return its answer if it is known here; None: `answer` serves it.

        Of an attempt that ends well `out[0]` is the client's answer; hand it to `keep` then.

        Args:
            route: of `read_route`, the front RPC. headers: lower-case. body: all of it, within the gateway's bound.
        """
        now_s = self.clock()
        account = self.access.recall(route.authorization, now_s)
        listing = self._catalogue.listings.get(route.service)
        if account is None or listing is None or listing.manifest.kind != KIND or self.why_full():
            return None
        try:
            preferences = read_preferences(b"", headers)
            plan = self._plan(listing, body, preferences, now_s)
        except SteelyardError:
            return None  # `answer` comes to the same, and says so
        if plan.slots and plan.request is not None:
            return None
        if not self.access.try_turn(account, now_s):
            return None
        if plan.request is None:
            return self._known(plan)
        job = self._dispatcher.build_job(
            account, listing, plan.request, plan.body, is_private=is_private(headers), started_s=now_s
        )
        job.preferences = preferences
        self._describe(job, plan, now_s)
        attempt = self._dispatcher.place_now(job)
        if attempt is None:
            self.access.give_back_turn(account)
            return None
        if isinstance(attempt.shape, RpcShape):
            attempt.shape.plan = plan
        attempt.wake_at_s = self._work.hedges.due_s(attempt)
        return attempt

    def keep(self, attempt: Attempt, plan: Plan | None = None) -> None:
        """Keep what may be kept of a good answer; without its plan by the one that `begin` made."""
        job = attempt.job
        if job.is_private or not attempt.out:
            return
        now_s = self.clock()
        self.watch.note_answer(attempt)
        if plan is None and isinstance(attempt.shape, RpcShape):
            plan = attempt.shape.plan
        if plan is None:
            return
        try:
            for key, result in plan.keepable(attempt.out[0]):
                seller = attempt.seller
                self.cache.keep(
                    key, CachedAnswer(result, seller.link.provider, seller.headers, attempt.receipt_hex, now_s)
                )
            self.checks.consider(attempt, plan)
        except SteelyardError:
            return  # the answer was good, there is nothing in it to keep

    async def answer(
        self,
        route: RelayRoute,
        method: str,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: tuple[Header, ...],
        describe: Describe,
        begun: Attempt | None = None,
    ) -> int:
        """Answer one request and return the status; raises ClientGone and nothing else.

        `begun` is what `begin` made of the request, if it did: the answer goes on from there.
        """
        body, is_read = (b"", False) if begun is None else (begun.job.body, True)
        try:
            if begun is not None:
                reply = await self._resume(begun, receive)
            elif method != "POST":
                error = BadRequest(
                    f"{method} is not served here: use POST, or connect as a WebSocket", code="method_not_allowed"
                )
                reply = error_reply(error, status=405, headers=((b"allow", b"POST"),))
            else:
                account = await self.admit(route.authorization)
                listing = await self.find_listing(route.service)
                is_read = True
                body = await read_body(receive, headers, self.settings.max_body_bytes)
                await self.access.take_turn(account)
                caller = Caller(account, listing, is_private(headers), read_preferences(b"", headers))
                reply = await self.answer_once(
                    account,
                    f"{API}:{listing.name}",
                    headers,
                    body,
                    lambda: self._ask_watched(caller, body, receive),
                )
        except ClientGone:
            raise
        except Exception as error:  # a supervisor: `describe` logs what is no refusal, and shows it as an id
            ids, is_batch = read_ids(body if is_read else await _read_small(headers, receive))
            reply = refusal_reply(describe(error), ids, is_batch=is_batch)
        await send_reply(send, reply, extra)
        return reply.status

    async def admit(self, authorization: bytes | None) -> Account:
        """Return whose key it is; raises Unauthorized."""
        return self.access.recall(authorization, self.clock()) or await self.access.admit(authorization)

    async def find_listing(self, name: str, kind: str = KIND) -> Listing:
        """Return what is on sale under a name of a chain.

        Raises:
            NotFound: nobody sells such a chain; tells the nearest ids. Unavailable: nobody is linked now.
        """
        row = find_chain(name)
        names = (name, name.lower()) if row is None else (name, name.lower(), row.id)
        for one in names:
            listing = self._catalogue.listings.get(one)
            if listing is not None and listing.manifest.kind == kind:
                return listing
        for listing in self._catalogue.listings.values():
            if row is not None and listing.manifest.chain == row.id and listing.manifest.kind == kind:
                return listing
        others = [listing for one in names if (listing := self._catalogue.listings.get(one)) is not None]
        if others:
            kind_there = others[0].manifest.kind
            raise NotFound(
                f"{others[0].name!r} is sold, as {kind_there}: use "
                + (
                    f"/{kind_there}/{others[0].name}"
                    if kind_there in (RPC, REST)
                    else "POST /v1/chat/completions and the like"
                ),
                code="chain_not_found",
            )
        for one in names:
            if await self._catalogue.is_registered(one):
                raise Unavailable(
                    f"no provider of {one[:80]!r} is linked to this gateway now: try again in a few seconds",
                    retry_after_s=5.0,
                )
        sold = sorted(one.name for one in self._catalogue.listings.values() if one.manifest.kind == kind)
        near = list(dict.fromkeys([*difflib.get_close_matches(name, sold, n=3), *nearest_chains(name)]))[:8]
        told = f"; the nearest: {', '.join(near)}" if near and row is None else ""
        raise NotFound(
            f"nobody sells {name[:80]!r} here{told}. On sale: {', '.join(sold[:20]) or 'none now'}",
            code="chain_not_found",
        )

    async def ask(self, caller: Caller, body: bytes, patient: Patient) -> Reply:
        """Return the answer to one JSON-RPC body; raises a Refusal, `BadRpc` among them, or ClientGone."""
        started_s = self.clock()
        plan = self._plan(caller.listing, body, caller.preferences, started_s)
        if plan.request is None:
            return self._known(plan)
        if full := self.why_full():
            raise Unavailable(full, code="overloaded", retry_after_s=1.0)
        job = self._dispatcher.build_job(
            caller.account, caller.listing, plan.request, plan.body, is_private=caller.is_private, started_s=started_s
        )
        job.preferences = caller.preferences
        self._describe(job, plan, started_s)
        attempt = await self._work.buy(job, patient)
        self.keep(attempt, plan)
        self._metrics.answered.observe(self.clock() - started_s)
        return Reply(200, plan.join(attempt.out[0]), (JSON_HEADER, *bought_headers(attempt), *cache_header(plan)))

    async def subscribe(self, caller: Caller, body: bytes, avoided: frozenset[bytes]) -> Attempt:
        """Return an order for a subscription that a provider took, none of those to be avoided; raises a Refusal."""
        if full := self.why_full():
            raise Unavailable(full, code="overloaded", retry_after_s=1.0)
        listing = caller.listing
        job = self._dispatcher.build_job(
            caller.account,
            listing,
            listing.service.parse(SUBSCRIBE, body),
            body,
            is_private=caller.is_private,
            started_s=self.clock(),
        )
        job.preferences = caller.preferences
        job.tried += [seller for seller in listing.sellers if seller.link.provider in avoided]
        return await self._work.buy(job, unwatched())

    async def answer_once(
        self, account: Account, api: str, headers: dict[bytes, bytes], body: bytes, ask: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """Return what `ask` answers, or what it answered before under this Idempotency-Key."""
        idem_key = headers.get(b"idempotency-key")
        if idem_key is None:
            return await ask()
        recording = await self._replays.begin(account.key_id, idem_key, api, body)
        if isinstance(recording, Reply):
            return Reply(recording.status, recording.body, (*recording.headers, (b"x-steelyard-replayed", b"true")))
        try:
            reply = await ask()
            await recording.keep(reply)
            return reply
        finally:
            await recording.close()

    async def _ask_watched(self, caller: Caller, body: bytes, receive: Receive) -> Reply:
        patient = self._hangups.add(receive)
        try:
            return await self.ask(caller, body, patient)
        finally:
            self._hangups.remove(patient)

    async def _resume(self, begun: Attempt, receive: Receive) -> Reply:
        patient = self._hangups.add(receive)
        try:
            attempt = await self._work.buy(begun.job, patient, begun)
        finally:
            self._hangups.remove(patient)
        self.keep(attempt, begun.shape.plan if isinstance(begun.shape, RpcShape) else None)
        return Reply(200, attempt.out[0], (JSON_HEADER, *bought_headers(attempt)))

    def _plan(self, listing: Listing, body: bytes, preferences: Preferences | None, now_s: float) -> Plan:
        return make_plan(
            listing,
            body,
            self.cache if preferences is None else None,  # an answer of whoever the caller named is nobody else's
            height=lambda: self.watch.heights.find(listing.name, now_s),
            max_items=self.settings.relay_batch_items,
            now_s=now_s,
        )

    def _describe(self, job: Job, plan: Plan, now_s: float) -> None:
        job.is_safe = plan.is_safe
        job.is_deep = self.watch.is_deep(job.listing, plan.oldest, now_s)
        self._work.hedges.count(job)

    def _known(self, plan: Plan) -> Reply:
        headers = (JSON_HEADER, *cache_header(plan))
        if plan.source is not None:
            made_by = (*plan.source.headers, (b"x-steelyard-receipt", b"0x" + plan.source.receipt_hex))
            headers = (*headers, *made_by)
        return Reply(200, plan.join(b""), (*headers, (b"x-steelyard-cost-nano", b"0")))


async def _read_small(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The body of a request that was refused before it was read, for its id alone; a large one isn't waited for."""
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > SMALL_BODY_BYTES:
        return b""
    return await read_body(receive, headers, SMALL_BODY_BYTES)


def unwatched() -> Patient:
    """Return what stands for a client who is watched elsewhere: whoever asks is cancelled once it has gone."""
    return Patient(_hear_nothing, 0.0)


async def _hear_nothing() -> Any:
    raise ClientGone


def bought_headers(attempt: Attempt) -> tuple[Header, ...]:
    """Return who made a whole answer, under which receipt, at what cost."""
    cost_nano = 0 if attempt.receipt is None else attempt.receipt.cost
    return (
        *attempt.seller.headers,
        (b"x-steelyard-call", b"call_" + attempt.job.call_hex),
        (b"x-steelyard-receipt", b"0x" + attempt.receipt_hex),
        (b"x-steelyard-cost-nano", b"%d" % cost_nano),
    )
