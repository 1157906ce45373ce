"""The hot routes: a request for work, from its bytes to its answer's.

1. Refusals come in this order: key, rate, size, JSON, model, the kind's own checks, budget, escrow, providers.
2. A provider that fails is replaced, in the middle of a stream too (rescue.py); if nobody can take over, the stream
   ends in an in-band error.
3. A client that hangs up stops the provider; what was sent by then is settled and paid.
4. No prompt, answer or key is logged.

Law: docs/spec/gateway.md, sections 1 and 2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from steelyard.errors import BadRequest, NotFound, SteelyardError, Unavailable
from steelyard.gateway.access import Access, Account
from steelyard.gateway.answers import APIS, encode_json
from steelyard.gateway.attempt import Attempt
from steelyard.gateway.catalogue import Catalogue, Listing, Seller
from steelyard.gateway.dispatch import Dispatcher
from steelyard.gateway.hangups import HangupWatch, Patient
from steelyard.gateway.job import Job
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.preferences import read_preferences
from steelyard.gateway.replays import Recording, Replays
from steelyard.gateway.replies import JSON_HEADER, SSE_HEADERS, Header, Receive, Reply, Send, send_reply
from steelyard.gateway.request_bodies import ClientGone, is_private, read_body, read_head
from steelyard.gateway.rescue import Rescuer
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.x402 import PaidWork
from steelyard.link.port import Failure


class Work:
    """Answers the hot routes of one gateway.

    Args:
        renew_lane: opens a new lane with a provider that lost the last one's history.
        why_full: why no call is taken now, or an empty string. clock: monotonic seconds. clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        access: Access,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        replays: Replays,
        hangups: HangupWatch,
        metrics: Metrics,
        *,
        renew_lane: Callable[[Seller], Awaitable[None]],
        why_full: Callable[[], str],
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._access = access
        self._catalogue = catalogue
        self._dispatcher = dispatcher
        self._replays = replays
        self._hangups = hangups
        self._metrics = metrics
        self._rescuer = Rescuer(settings, dispatcher, metrics, renew_lane=renew_lane, clock=clock, clock_ms=clock_ms)
        self.hedges = self._rescuer.hedges
        self._why_full = why_full
        self._clock = clock
        self.paid: PaidWork | None = None

    def begin(self, api: str, headers: dict[bytes, bytes], body: bytes) -> Attempt | None:
        """Send the order of a call that doesn't stream at once; or do nothing and return None: `answer` serves it then.

        Args:
            api, headers: see `answer`. body: all of it, within the gateway's bound.
        """
        started_s = self._clock()
        account = self._access.recall(headers.get(b"authorization"), started_s)
        if account is None or self._why_full():
            return None
        try:
            head = read_head(body)
            listing = self._catalogue.listings.get(head.model)
            if listing is None:
                return None
            job = self._read_job(api, account, headers, body, listing, started_s)
            job.preferences = read_preferences(head.provider, headers)
        except SteelyardError:
            return None  # `answer` comes to the same, and says so
        if job.request.stream or not self._access.try_turn(account, started_s):
            return None
        attempt = self._dispatcher.place_now(job)
        if attempt is None:
            self._access.give_back_turn(account)
        return attempt

    async def answer(
        self,
        api: str,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: tuple[Header, ...],
        begun: Attempt | None = None,
    ) -> int:
        """Answer one request and return the status; raises a Refusal before anything was sent.

        Args:
            api: e.g. ``chat.completions``. headers: of the request, lower-case. extra: headers for the reply.
            begun: what `begin` made of the request, if it did: the answer goes on from there.
        """
        if begun is not None:
            return await self._answer(begun.job, receive, send, extra, None, begun)
        authorization = headers.get(b"authorization")
        if authorization is None and self.paid is not None:
            return await self.paid.answer(self, api, headers, receive, send, extra)
        account = self._access.recall(authorization, self._clock()) or await self._access.admit(authorization)
        await self._access.take_turn(account)
        body = await read_body(receive, headers, self._settings.max_body_bytes)
        started_s = self._clock()
        if full := self._why_full():
            raise Unavailable(full, code="overloaded", retry_after_s=1.0)
        idem_key = headers.get(b"idempotency-key")
        recording = None if idem_key is None else await self._replays.begin(account.key_id, idem_key, api, body)
        if isinstance(recording, Reply):
            await send_reply(send, recording, (*extra, (b"x-steelyard-replayed", b"true")))
            return recording.status
        try:
            job = await self.read_job(api, account, headers, body, started_s)
            return await self._answer(job, receive, send, extra, recording)
        finally:
            if recording is not None:
                await recording.close()

    async def read_job(
        self, api: str, account: Account, headers: dict[bytes, bytes], body: bytes, started_s: float
    ) -> Job:
        """Return a request as a job that is not placed yet; raises a Refusal."""
        head = read_head(body)
        listing = await self._find_listing(head.model)
        job = self._read_job(api, account, headers, body, listing, started_s)
        job.preferences = read_preferences(head.provider, headers)
        return job

    async def serve(self, job: Job, receive: Receive, send: Send, extra: tuple[Header, ...]) -> int:
        """Place a job and send its answer; for fronts with a `send` of their own, which may raise."""
        return await self._answer(job, receive, send, extra, None)

    def _read_job(
        self, api: str, account: Account, headers: dict[bytes, bytes], body: bytes, listing: Listing, started_s: float
    ) -> Job:
        request = listing.service.parse(api, body)
        if request.api not in APIS:
            raise BadRequest(f"{listing.name!r} does not answer {api}", param="model")
        return self._dispatcher.build_job(
            account, listing, request, body, is_private=is_private(headers), started_s=started_s
        )

    async def _answer(
        self,
        job: Job,
        receive: Receive,
        send: Send,
        extra: tuple[Header, ...],
        recording: Recording | None,
        begun: Attempt | None = None,
    ) -> int:
        patient = self._hangups.add(receive)
        try:
            if job.request.stream:
                return await self._stream(job, patient, send, extra, recording)
            return await self._whole(job, patient, send, extra, recording, begun)
        except ClientGone:
            return 499
        except Exception:  # whatever went wrong is raised again, once the provider is told
            if patient.on_gone is not None:
                patient.on_gone()  # nobody reads what its provider still makes
            raise
        finally:
            self._hangups.remove(patient)
            self._metrics.answered.observe(self._clock() - job.started_s)

    async def _find_listing(self, name: str) -> Listing:
        listing = self._catalogue.listings.get(name)
        if listing is not None:
            return listing
        if await self._catalogue.is_registered(name):
            raise Unavailable(
                f"no provider of {name[:80]!r} is linked to this gateway now: try again in a few seconds",
                retry_after_s=5.0,
            )
        near = ", ".join(self._catalogue.nearest_names(name)) or "none is on sale now"
        raise NotFound(
            f"there is no model {name[:80]!r}; the nearest: {near}. GET /v1/models lists all",
            code="model_not_found",
            param="model",
        )

    async def buy(self, job: Job, patient: Patient, begun: Attempt | None = None) -> Attempt:
        """Return the attempt that answered a job, or that has the first piece of its stream; failed ones are replaced.

        For the other fronts: whoever calls writes the answer. Raises a Refusal, or ClientGone once `patient` is gone.
        """
        attempt = await self._rescuer.first(job, patient, begun)
        if not attempt.is_stream and attempt.receipt is None:
            raise cut_error(attempt)
        return attempt

    async def _whole(
        self,
        job: Job,
        patient: Patient,
        send: Send,
        extra: tuple[Header, ...],
        recording: Recording | None,
        begun: Attempt | None,
    ) -> int:
        attempt = await self._rescuer.first(job, patient, begun)
        receipt = attempt.receipt
        if receipt is None:
            raise cut_error(attempt)
        body = attempt.out[0]
        headers = [
            JSON_HEADER,
            *attempt.seller.headers,
            (b"x-steelyard-call", b"call_" + job.call_hex),
            (b"x-steelyard-receipt", b"0x" + attempt.receipt_hex),
            (b"x-steelyard-cost-nano", b"%d" % receipt.cost),
        ]
        if recording is not None:
            await recording.keep(Reply(200, body, tuple(headers)))
        headers += extra
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return 200

    async def _stream(
        self, job: Job, patient: Patient, send: Send, extra: tuple[Header, ...], recording: Recording | None
    ) -> int:
        rescuer, settings = self._rescuer, self._settings
        attempt = await rescuer.first(job, patient)
        self._metrics.first_piece.observe((attempt.first_s or self._clock()) - job.started_s)
        headers = [*SSE_HEADERS, *attempt.seller.headers, (b"x-steelyard-call", b"call_" + job.call_hex)]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *extra]})
        attempt.is_shown = True
        sent: list[bytes] = []
        while True:
            failure = attempt.failure or attempt.shortfall
            if failure is not None and not attempt.is_shown:
                attempt.out.clear()  # whoever takes over makes it again
            out, attempt.out = attempt.out, []
            pieces, attempt.pieces = attempt.pieces, 0
            is_last = failure is None and attempt.is_over
            if out or is_last:
                attempt.is_shown = True
            elif failure is not None:
                if attempt.is_cancelled and not attempt.is_unwanted:
                    raise ClientGone
                follower = await rescuer.replace(job, attempt, failure, patient)
                if follower is not None:
                    attempt = follower
                    continue
                error = cut_error(attempt)
                self._metrics.errors[error.code] += 1
                await send({"type": "http.response.body", "body": attempt.shape.cut(error), "more_body": False})
                return 200
            if is_last:
                out.append(_last_events(attempt))
            data = b"".join(out)
            if recording is not None:
                sent.append(data)
                if is_last:
                    await recording.keep(Reply(200, b"".join(sent), tuple(headers)))
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": not is_last})
            if is_last:
                return 200
            if pieces:
                attempt.seller.link.grant_pieces(job.call_id, pieces)
            if attempt.is_cancelled and not attempt.is_unwanted:
                raise ClientGone
            if not attempt.out and not attempt.is_over and not attempt.is_unwanted:
                patience_s = settings.first_byte_s if attempt.first_s is None else settings.stall_s
                silence = await rescuer.wait(attempt, patience_s)
                if silence is not None:
                    attempt = await rescuer.replace(job, attempt, silence, patient) or attempt


def _last_events(attempt: Attempt) -> bytes:
    """The end of a stream; of one that took several legs, with what the whole answer came to."""
    job, receipt = attempt.job, attempt.receipt
    if receipt is None:
        raise cut_error(attempt)
    if attempt.leg is None:
        return attempt.shape.end(receipt, attempt.stamp)
    whole = attempt.carry()
    stamp = attempt.seller.stamp % (job.call_hex, attempt.receipt_hex, whole.nano)
    rescues = encode_json([{"provider": provider, "reason": reason} for provider, reason in job.rescues])
    stamp = b'%s,"rescues":%s}' % (stamp.removesuffix(b"}"), rescues)
    return attempt.shape.end(replace(receipt, units_in=whole.units[0], units_out=whole.units[1]), stamp)


def cut_error(attempt: Attempt) -> SteelyardError:
    """Return what a client is told of an answer that did not come to its end."""
    failure = attempt.failure or attempt.shortfall or Failure("engine_error", "its answer ended early")
    return Unavailable(
        f"provider {attempt.seller.provider_hex} was lost before the end of the answer ({failure.code}: "
        f"{failure.message[:200]}), and nobody could go on: what came before is not the whole answer, send it again",
        code="provider_lost",
        retry_after_s=1.0,
    )
