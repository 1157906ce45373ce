"""Two ends of a link for tests: a gateway's side that records, a node's side that echoes, and a proxy that cuts.

async with linked() as world:              # real sockets on loopback
    call = world.call(b"body", is_stream=True)
    await call.ended                       # call.content, call.receipt, call.failure
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from tests.cutting_proxy import CuttingProxy

from steelyard.errors import SteelyardError
from steelyard.link.client import LinkClient
from steelyard.link.gateway_link import GatewaySession
from steelyard.link.limits import LinkLimits
from steelyard.link.port import (
    CallRequest,
    Failure,
    GatewayLink,
    LaneClaim,
    LeafEntry,
    Piece,
    ProviderLink,
    SignedOffer,
)
from steelyard.link.provider_link import ProviderSession
from steelyard.link.server import LinkServer, unix_ms
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Lane, Offer, Order, Receipt, Voucher
from steelyard.protocol.signing import Domain, SigningKey

DOMAIN = Domain(31415, b"\x05" * 32)
GATEWAY_KEY = SigningKey(b"\x01" * 32)
PROVIDER_KEY = SigningKey(b"\x02" * 32)
SERVICE = b"\x33" * 32
LIMITS = LinkLimits(resume_window_s=3.0, handshake_s=2.0)
LANE = Lane(GATEWAY_KEY.account, PROVIDER_KEY.account, SERVICE, 7)


def build_order(call_id: bytes, deadline_ms: int | None = None) -> Order:
    """Return an order of the test lane; nothing in it is checked by the link."""
    deadline_ms = deadline_ms or unix_ms() + 60_000
    accounts = (GATEWAY_KEY.account, PROVIDER_KEY.account)
    return Order(call_id, *accounts, SERVICE, 7, ZERO32, ZERO32, 1, 4, 10, 20, 10**9, deadline_ms)


def build_receipt(order: Order, units: int = 1) -> Receipt:
    """Return a receipt for an order; nothing in it is checked by the link."""
    return Receipt(order.struct_hash(), 0, ZERO32, ZERO32, 1, units, 5, 1, 2, 0)


def build_voucher(total: int, lane_id: int = 7) -> SignedVoucher:
    """Return a voucher with a signature that the link doesn't check."""
    voucher = Voucher(GATEWAY_KEY.account, PROVIDER_KEY.account, SERVICE, lane_id, total, total, b"\x01" * 32)
    return SignedVoucher(voucher, b"\x00" * 65)


def build_offer(key: SigningKey = PROVIDER_KEY) -> SignedOffer:
    """Return an offer with a signature that the link doesn't check."""
    return SignedOffer(Offer(key.account, SERVICE, 1, 2, 4, b"\x00" * 32, 1), b"\x00" * 65, "echo", b"{}")


@dataclass(eq=False)
class Call:
    """A call's sink, and what came of it."""

    link: ProviderLink
    call_id: bytes
    grants: int = 1
    pieces: list[Piece] = field(default_factory=list)
    receipt: Receipt | None = None
    failure: Failure | None = None
    ends: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def content(self) -> bytes:
        """Return all pieces' content."""
        return b"".join(piece.content for piece in self.pieces)

    def on_piece(self, piece: Piece) -> None:
        """Take a piece, and grant another."""
        assert not self.ends, "a piece after the end"
        self.pieces.append(piece)
        if self.grants:
            self.link.grant_pieces(self.call_id, self.grants)

    def on_done(self, receipt: Receipt) -> None:
        """Take the receipt."""
        self.receipt = receipt
        self._end()

    def on_fail(self, failure: Failure) -> None:
        """Take the failure."""
        self.failure = failure
        self._end()

    def _end(self) -> None:
        self.ends += 1
        assert self.ends == 1, "a call ended twice"
        self.ended.set()


class RecordingGateway:
    """A GatewaySide that notes what it is told."""

    def __init__(self) -> None:
        self.link: ProviderLink | None = None
        self.up = asyncio.Event()
        self.ups = 0
        self.downs: list[str] = []
        self.refused: list[tuple[bytes | None, SteelyardError]] = []
        self.batches: list[tuple[SignedBatch, Sequence[bytes], Sequence[LeafEntry]]] = []
        self.claims: list[LaneClaim] = []
        self.lanes: list[LaneState] = []
        self.refuse_with: SteelyardError | None = None
        self.batch_gate = asyncio.Event()
        self.batch_gate.set()

    async def admit_provider(self, provider: bytes, offers: Sequence[SignedOffer]) -> None:
        if self.refuse_with is not None:
            raise self.refuse_with

    def known_lanes(self, provider: bytes) -> Sequence[LaneState]:
        return self.lanes

    def on_link_up(self, link: ProviderLink) -> None:
        self.link = link
        self.ups += 1
        self.up.set()

    def on_link_down(self, link: ProviderLink, reason: str) -> None:
        self.downs.append(reason)
        self.up.clear()

    async def on_batch(
        self, link: ProviderLink, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> None:
        await self.batch_gate.wait()
        self.batches.append((signed, call_ids, entries))

    async def on_claim(self, link: ProviderLink, claim: LaneClaim) -> None:
        self.claims.append(claim)

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        self.refused.append((account, error))


class EchoNode:
    """A NodeSide that answers a call with its body: in one piece, or in pieces of `step` bytes for a stream."""

    def __init__(self, step: int = 3) -> None:
        self.step = step
        self.hold = asyncio.Event()
        self.hold.set()
        self.tasks: dict[bytes, asyncio.Task[None]] = {}
        self.cancelled: list[bytes] = []
        self.calls: list[bytes] = []
        self.vouchers: list[SignedVoucher] = []
        self.wanted: list[LaneState] = []
        self.ups: list[tuple[GatewayLink, Sequence[LaneState]]] = []
        self.known: list[Sequence[LaneState]] = []
        self.downs: list[str] = []
        self.refused: list[tuple[bytes | None, SteelyardError]] = []
        self.evidence: dict[bytes, bytes] = {}
        self.mute: set[bytes] = set()
        self.asked: list[bytes] = []
        self.refuse_with: SteelyardError | None = None
        self.on_voucher_hook: Callable[[SignedVoucher], None] = lambda signed: None

    async def admit_gateway(self, gateway: bytes) -> None:
        if self.refuse_with is not None:
            raise self.refuse_with

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        call_id = request.order.call_id
        self.calls.append(call_id)
        if not is_stream and self.hold.is_set():
            link.send_done(call_id, build_receipt(request.order), Piece(request.body, 1, 1))
            return
        self.tasks[call_id] = asyncio.create_task(self._answer(link, request, is_stream))

    async def _answer(self, link: GatewayLink, request: CallRequest, is_stream: bool) -> None:
        call_id, body = request.order.call_id, request.body
        try:
            await self.hold.wait()
            if not is_stream:
                link.send_done(call_id, build_receipt(request.order), Piece(body, 1, 1))
                return
            for start in range(0, len(body), self.step):
                await link.send_piece(call_id, Piece(body[start : start + self.step], 0, 1))
            link.send_done(call_id, build_receipt(request.order, len(body)), None)
        except asyncio.CancelledError:
            link.send_done(call_id, replace_reason(build_receipt(request.order)), None)
        finally:
            self.tasks.pop(call_id, None)

    def on_cancel(self, link: GatewayLink, call_id: bytes) -> None:
        self.cancelled.append(call_id)
        if call_id in self.tasks:
            self.tasks[call_id].cancel()

    async def on_voucher(self, link: GatewayLink, signed: SignedVoucher) -> None:
        self.on_voucher_hook(signed)
        self.vouchers.append(signed)

    def on_lanes_known(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        self.known.append(lanes)

    async def on_link_up(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        self.ups.append((link, lanes))

    async def on_batches_wanted(self, link: GatewayLink, state: LaneState) -> None:
        self.wanted.append(state)

    def on_evidence_asked(self, link: GatewayLink, receipt_hash: bytes) -> None:
        self.asked.append(receipt_hash)
        if receipt_hash not in self.mute:
            task = asyncio.create_task(link.send_evidence(receipt_hash, self.evidence.get(receipt_hash)))
            self.tasks[receipt_hash] = task
            task.add_done_callback(lambda _: self.tasks.pop(receipt_hash, None))

    def on_link_down(self, link: GatewayLink, reason: str) -> None:
        self.downs.append(reason)

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        self.refused.append((account, error))


def replace_reason(receipt: Receipt, reason: int = 4) -> Receipt:
    """Return a receipt with another finish reason (4: cancelled)."""
    fields = {name: getattr(receipt, name) for name in receipt.__struct_fields__}
    return Receipt(**{**fields, "finish_reason": reason})


@dataclass(eq=False)
class World:
    """A server and a client that have found each other."""

    gateway: RecordingGateway
    node: EchoNode
    server: LinkServer
    client: LinkClient
    proxy: CuttingProxy | None
    port: int
    task: asyncio.Task[None]
    serial: int = 0

    @property
    def link(self) -> ProviderSession:
        """The gateway's end."""
        return self.server.links[0]

    @property
    def node_link(self) -> GatewaySession:
        """The node's end."""
        assert self.client.link is not None
        return self.client.link

    def call(self, body: bytes, *, is_stream: bool = False, grants: int = 1, deadline_ms: int | None = None) -> Call:
        """Open a call and return its sink."""
        self.serial += 1
        call_id = self.serial.to_bytes(16, "big")
        link = self.link
        call = Call(link, call_id, grants)
        request = CallRequest(build_order(call_id, deadline_ms), b"\x00" * 16, b"\x00" * 32, "echo", body)
        link.open_call(request, call, is_stream=is_stream)
        return call


@asynccontextmanager
async def linked(
    *,
    limits: LinkLimits = LIMITS,
    node_limits: LinkLimits | None = None,
    node: EchoNode | None = None,
    gateway: RecordingGateway | None = None,
    cuts: Sequence[int] | None = None,
    wait: bool = True,
) -> AsyncIterator[World]:
    """Start a server and a client on loopback, with a proxy between them if `cuts` is given."""
    gateway, node = gateway or RecordingGateway(), node or EchoNode()
    server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, limits)
    port = await server.start("127.0.0.1", 0)
    proxy = None if cuts is None else CuttingProxy(port, cuts)
    dialled = port if proxy is None else await proxy.start()
    client = LinkClient(
        f"ws://127.0.0.1:{dialled}/link",
        PROVIDER_KEY,
        DOMAIN,
        node,
        limits=node_limits or limits,
        offers=lambda: (build_offer(),),
    )
    task = asyncio.create_task(client.run())
    try:
        if wait:
            async with asyncio.timeout(10):
                await gateway.up.wait()
            await until(lambda: node.ups)
        yield World(gateway, node, server, client, proxy, port, task)
    finally:
        await client.aclose()
        await task
        await server.aclose()
        if proxy is not None:
            await proxy.aclose()


async def until(is_true: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until something holds, looking every few milliseconds."""
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


def with_limits(**changes: object) -> LinkLimits:
    """Return the tests' limits with some of them changed."""
    return replace(LIMITS, **changes)  # type: ignore[arg-type]
