"""Plain HTTP, passed through: `/rest/{service}/…`, any method, for data sources and chains that speak REST.

1. A request is one order: method, path, query, content type and body. No other header of the client's leaves the
   gateway.
2. The answer has the upstream's status, content type and body, and ours around it. A provider's bytes are shown on our
   origin, so a browser is told to take them for nothing but data.
3. Refusals have the shape of gateway.md, section 3. Nothing is cached.

Law: docs/spec/relay.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steelyard.errors import BadRequest, Unavailable
from steelyard.gateway.preferences import read_preferences
from steelyard.gateway.relay import Relay, bought_headers
from steelyard.gateway.relay_routes import RelayRoute
from steelyard.gateway.replies import Header, Receive, Reply, Send, send_reply
from steelyard.gateway.request_bodies import is_private, read_body
from steelyard.services.rest.requests import METHODS, encode_call, read_answer

if TYPE_CHECKING:
    from steelyard.gateway.dispatch import Dispatcher
    from steelyard.gateway.hangups import HangupWatch
    from steelyard.gateway.job import Job
    from steelyard.gateway.work import Work

KIND = API = "rest"
BODILESS = frozenset((204, 304))
DATA_ONLY: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
)


class RestFront:
    """Answers `/rest/…`; `clock` is monotonic seconds."""

    def __init__(
        self,
        relay: Relay,
        dispatcher: Dispatcher,
        work: Work,
        hangups: HangupWatch,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._relay = relay
        self._dispatcher = dispatcher
        self._work = work
        self._hangups = hangups
        self._clock = clock

    async def answer(
        self,
        route: RelayRoute,
        method: str,
        query: bytes,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: tuple[Header, ...],
    ) -> int:
        """Answer one request and return the status; raises a Refusal before anything was sent."""
        relay = self._relay
        account = await relay.admit(route.authorization)
        await relay.access.take_turn(account)
        listing = await relay.find_listing(route.service, KIND)
        if method not in METHODS:
            raise BadRequest(f"{method[:20]} is not passed on: use one of {', '.join(METHODS)}", param="method")
        body = await read_body(receive, headers, relay.settings.max_body_bytes)
        if full := relay.why_full():
            raise Unavailable(full, code="overloaded", retry_after_s=1.0)
        started_s = self._clock()
        content_type = headers.get(b"content-type", b"").decode("latin-1") if body else ""
        order = encode_call(method, route.rest_path, query.decode("latin-1"), content_type, body)
        job = self._dispatcher.build_job(
            account,
            listing,
            listing.service.parse(API, order),
            order,
            is_private=is_private(headers),
            started_s=started_s,
        )
        job.preferences = read_preferences(b"", headers)
        reply = await relay.answer_once(
            account, f"{API}:{listing.name}", headers, order, lambda: self._ask(job, receive, is_shown=method != "HEAD")
        )
        if reply.status in BODILESS:  # such an answer may not even say a length
            await send({"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, *extra]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send_reply(send, reply, extra)
        return reply.status

    async def _ask(self, job: Job, receive: Receive, *, is_shown: bool) -> Reply:
        patient = self._hangups.add(receive)
        try:
            attempt = await self._work.buy(job, patient)
        finally:
            self._hangups.remove(patient)
        status, shown_type, content = read_answer(attempt.out[0])
        headers = (*bought_headers(attempt), *DATA_ONLY)
        if shown_type:
            headers = ((b"content-type", shown_type.encode()), *headers)
        return Reply(status, content if is_shown else b"", headers)
