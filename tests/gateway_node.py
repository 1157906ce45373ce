"""A provider for tests of the gateway: serves the real echo kind over a real link, and misbehaves on demand.

It keeps everything in memory. What it does wrong is set on its attributes: `failure`, `spoil_receipt`, `spoil_batch`,
`cut_after`, `stall_after`, `gate`, `batches_by_itself`. What it saw is in `requests`, `cancelled` and `vouchers`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from steelyard.errors import SteelyardError
from steelyard.link.client import LinkClient
from steelyard.link.limits import LinkLimits
from steelyard.link.port import CallRequest, Failure, GatewayLink, LaneClaim, LeafEntry, Piece, SignedOffer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher, extend_lane
from steelyard.protocol.messages import FinishReason, Lane, Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.port import Context, Service


class ScriptedNode:
    """Implements `link.port.NodeSide`."""

    def __init__(self, key: SigningKey, domain: Domain, service: Service, offer: SignedOffer) -> None:
        self.key, self.domain, self.service, self.offer = key, domain, service, offer
        self.failure: Failure | None = None
        self.failures_left = 0
        self.spoil_receipt: Callable[[Receipt], Receipt] = lambda receipt: receipt
        self.spoil_batch: Callable[[SignedBatch], SignedBatch] = lambda signed: signed
        self.spoil_piece: Callable[[Piece], Piece] = lambda piece: piece
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches_by_itself = True
        self.engine_breaks_after: int | None = None
        self.requests: list[CallRequest] = []
        self.cancelled: list[bytes] = []
        self.vouchers: list[SignedVoucher] = []
        self.refused: list[SteelyardError] = []
        self.evidence: dict[bytes, bytes] = {}
        self.mute: set[bytes] = set()
        self.asked: list[bytes] = []
        self.histories: dict[Lane, list[tuple[SignedBatch, list[LeafEntry]]]] = {}
        self.states: dict[Lane, LaneState] = {}
        self.waiting: dict[Lane, list[LeafEntry]] = {}
        self.claims_unknown = True
        self.client: LinkClient | None = None
        self._runs: dict[bytes, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(self, url: str, limits: LinkLimits) -> None:
        """Keep a link to a gateway up."""
        self.client = LinkClient(url, self.key, self.domain, self, offers=lambda: (self.offer,), limits=limits)
        self._keep(self.client.run())

    @property
    def link(self) -> GatewayLink:
        """The link to the gateway, which must be up."""
        assert self.client is not None
        assert self.client.link is not None
        return self.client.link

    async def stop(self) -> None:
        """Say goodbye."""
        if self.client is not None:
            await self.client.aclose()
        await self._end_tasks()

    async def kill(self) -> None:
        """Die without a word."""
        if self.client is not None:
            self.client.abort()
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _keep(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # what the link asks

    async def admit_gateway(self, gateway: bytes) -> None:
        """Let everyone in."""

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        """Serve it, or do as told."""
        self.requests.append(request)
        if self.failure is not None and self.failures_left != 0:
            self.failures_left -= 1
            link.send_fail(request.order.call_id, self.failure)
            return
        self._runs[request.order.call_id] = self._keep(self._run(link, request, is_stream))

    def on_cancel(self, link: GatewayLink, call_id: bytes) -> None:
        """Stop a run; it bills what was sent."""
        self.cancelled.append(call_id)
        task = self._runs.get(call_id)
        if task is not None:
            task.cancel()

    async def on_voucher(self, link: GatewayLink, signed: SignedVoucher) -> None:
        """Keep it."""
        self.vouchers.append(signed)

    async def on_link_up(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Send again what the gateway lacks, and claim what it forgot."""
        known = {state.lane: state for state in lanes}
        for lane, history in self.histories.items():
            if lane in known:
                self.resend(link, lane, known[lane].seq)
            elif self.claims_unknown:
                best = next((v for v in reversed(self.vouchers) if v.voucher.lane == lane), None)
                batches, entries = tuple(b for b, _ in history), tuple(tuple(e) for _, e in history)
                link.send_claim(LaneClaim(lane, batches, entries, best))

    def on_lanes_known(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Trust the gateway."""

    async def on_batches_wanted(self, link: GatewayLink, state: LaneState) -> None:
        """Send them whole."""
        self.resend(link, state.lane, state.seq)

    def on_evidence_asked(self, link: GatewayLink, receipt_hash: bytes) -> None:
        """Show what the test put into `evidence`; a receipt in `mute` gets no answer at all."""
        self.asked.append(receipt_hash)
        if receipt_hash not in self.mute:
            self._keep(link.send_evidence(receipt_hash, self.evidence.get(receipt_hash)))

    def resend(self, link: GatewayLink, lane: Lane, after_seq: int) -> None:
        """Send a lane's batches after one, with their entries."""
        for signed, entries in self.histories.get(lane, [])[after_seq:]:
            link.send_batch(signed, [entry.order.call_id for entry in entries], entries)

    def on_link_down(self, link: GatewayLink, reason: str) -> None:
        """Nothing to do."""

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        """Note it."""
        self.refused.append(error)

    # work

    async def _run(self, link: GatewayLink, call: CallRequest, is_stream: bool) -> None:
        order, contents, units_in, units_out = call.order, list[bytes](), 0, 0
        finish: FinishReason | None = None
        request = self.service.parse(call.api, call.body)
        context = Context(order.call_id, order.sampler_seed, call.prefix)
        try:
            await self.gate.wait()
            async with aclosing(self.service.run(request, context)) as chunks:
                async for chunk in chunks:
                    if self.engine_breaks_after is not None and len(contents) >= self.engine_breaks_after:
                        raise RuntimeError("the engine broke")
                    contents.append(chunk.content)
                    units_in, units_out = units_in + chunk.units_in, units_out + chunk.units_out
                    finish = chunk.finish
                    if is_stream:
                        piece = Piece(chunk.content, chunk.units_in, chunk.units_out, chunk.detail, chunk.trail)
                        await link.send_piece(order.call_id, self.spoil_piece(piece))
                        if self.stall_after is not None and len(contents) >= self.stall_after:
                            await asyncio.Event().wait()
                        if self.cut_after is not None and len(contents) >= self.cut_after:
                            await asyncio.sleep(0.05)
                            self._keep(self.kill())
                            return
        except asyncio.CancelledError:
            if order.call_id not in self.cancelled:
                raise
            finish = FinishReason.CANCELLED
            if not contents:
                link.send_fail(order.call_id, Failure("cancelled", "the gateway asked to stop", False))
                return
        except RuntimeError as error:
            finish = FinishReason.ERROR
            if not contents:
                link.send_fail(order.call_id, Failure("engine_error", str(error)))
                return
        content = b"".join(contents)
        cost = call_cost(units_in, units_out, order.price_in, order.price_out)
        now_ms = time.time_ns() // 1_000_000
        receipt = Receipt(
            order.struct_hash(), 0, content_hash(call.salt, content), ZERO32, units_in, units_out, cost,
            now_ms, now_ms, int(finish or 0),
        )  # fmt: skip
        receipt = self.spoil_receipt(receipt)
        link.send_done(
            order.call_id, receipt, None if is_stream else self.spoil_piece(Piece(content, units_in, units_out))
        )
        self.waiting.setdefault(order.lane, []).append(LeafEntry(order, call.tag, receipt))
        if self.batches_by_itself:
            asyncio.get_running_loop().call_later(0.02, self.send_batches, link)

    def send_batches(self, link: GatewayLink | None = None, *, is_silent: bool = False) -> None:
        """Sign what waits and send it."""
        for lane, waiting in self.waiting.items():
            while waiting:
                entries, waiting[:] = waiting[:64], waiting[64:]
                state = self.states.get(lane, LaneState(lane=lane))
                self.states[lane], signed = extend_lane(
                    state,
                    [entry.receipt.struct_hash() for entry in entries],
                    [entry.receipt.cost for entry in entries],
                    self.key,
                    self.domain,
                )
                self.histories.setdefault(lane, []).append((signed, entries))
                if link is not None and not is_silent:
                    link.send_batch(self.spoil_batch(signed), [entry.order.call_id for entry in entries])
