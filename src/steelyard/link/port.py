"""What a link offers to the room at each of its ends, and what it asks of them.

1. The node dials; one WebSocket for each gateway process; many calls in flight on it.
2. Both ends prove their accounts by a signed handshake before anything else is read.
3. Frames are authenticated by the session; receipts by their batch, vouchers by their own signature.
4. The link moves messages in order, bounds them, and checks no money. What it hands over is well-formed and untrusted.
5. Callbacks run on the event loop and must not block; those that are coroutines may write to the database first. The
   coroutines of one link run one after the other, in the order of the messages.
6. A link object is one session. A connection that comes back within the resume window continues it, with nothing lost
   or doubled; a process that restarted, or came too late, makes a new session, and so a new link object.

Law: docs/spec/link.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from steelyard.errors import SteelyardError
from steelyard.protocol.lanes import MAX_BATCH_CALLS, LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Lane, Offer, Order, Receipt

MAX_CLAIM_BATCHES = 16

Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes65 = Annotated[bytes, Meta(min_length=65, max_length=65)]
ShortText = Annotated[str, Meta(max_length=64)]
Units = Annotated[int, Meta(ge=0)]


class SignedOffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An offer, its signature, and the manifest that it names (JSON bytes whose SHA-256 is `offer.manifest`).

    `region` is where the node says that it is, e.g. ``eu-west-1``; it is not signed, and "" if it doesn't say.
    """

    offer: Offer
    signature: Bytes65
    service: ShortText
    manifest: Annotated[bytes, Meta(max_length=64 * 1024)]
    region: ShortText = ""


class CallRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An order with all that a provider needs to carry it out.

    Args:
        order: the pinned terms. tag: 16 bytes. salt: 32 bytes, salts the request's and the response's hash.
        api: whose shape the body has, e.g. ``chat.completions``. body: at most the link's body limit.
        prefix: the part of the answer to continue from (`services.port.Prefix`), whose salted hash is
            `order.prefix_hash`; empty if there is none.
    """

    order: Order
    tag: Bytes16
    salt: Bytes32
    api: ShortText
    body: bytes
    prefix: bytes = b""


class Piece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A chunk of a result on the wire: content that `response_hash` covers, the units it cost, kind-specific JSON, and
    what another provider needs to go on after it.
    """

    content: bytes
    units_in: Units
    units_out: Units
    detail: bytes = b""
    trail: bytes = b""


class Failure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Why a call ended without a receipt: nothing is billed.

    `code` is one of the stable codes: ``credit_window``, ``busy``, ``bad_order``, ``not_served``, ``engine_error``,
    ``deadline``, ``invalid_request``, ``link_lost``, ``lane_lost`` (the provider lost the lane's history),
    ``cancelled`` (before anything was made). `is_retryable`: another provider may well serve it.
    """

    code: ShortText
    message: Annotated[str, Meta(max_length=1024)]
    is_retryable: bool = True
    retry_after_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0


class LeafEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One receipt of a batch with its order and tag, for a gateway that no longer knows the call."""

    order: Order
    tag: Bytes16
    receipt: Receipt


class CallSink(Protocol):
    """Where a gateway takes a call's result; exactly one of `on_done` and `on_fail` ends it."""

    def on_piece(self, piece: Piece) -> None:
        """Take the next chunk, in order."""

    def on_done(self, receipt: Receipt) -> None:
        """Take the receipt; its id is known now, its signed proof comes with a batch."""

    def on_fail(self, failure: Failure) -> None:
        """Learn that there will be no (further) result."""


class ProviderLink(Protocol):
    """A gateway's end of one link; `session` is 16 random bytes, `provider` is proven, `offers` are the latest."""

    session: bytes
    provider: bytes
    offers: tuple[SignedOffer, ...]

    @property
    def is_up(self) -> bool:
        """Whether the connection stands; a call opened on a link that is down fails at once with ``link_lost``
        (the sink hears it in the next turn of the event loop, never inside `open_call`).
        """

    @property
    def calls_in_flight(self) -> int:
        """How many calls have neither receipt nor failure."""

    def open_call(self, request: CallRequest, sink: CallSink, *, is_stream: bool) -> None:
        """Send an order; without `is_stream` the result comes as one piece, just before `on_done`.

        The provider may send `LinkLimits.window_pieces` (64) pieces of a stream before it needs a grant. A call that is
        still open 10 s after its order's deadline fails with ``deadline``.
        """

    def cancel_call(self, call_id: bytes) -> None:
        """Ask the provider to stop; the sink still gets `on_done` with the receipt for what was sent, or `on_fail`."""

    def grant_pieces(self, call_id: bytes, count: int) -> None:
        """Let the provider send `count` more pieces of a stream (flow control); call it as pieces are consumed, the
        link gathers grants.
        """

    def send_voucher(self, signed: SignedVoucher) -> None:
        """Send a voucher; it is sent again after a reconnect until a higher one replaces it."""

    def request_batches(self, state: LaneState) -> None:
        """Ask for all batches of a lane after `state`, each with its leaf entries: some receipt of them isn't known
        here.
        """

    async def fetch_evidence(self, receipt_hash: bytes) -> bytes | None:
        """Return the evidence that a receipt names (untrusted), or None: the provider says that it has none.

        Raises:
            Unavailable: the link is down or lost, too many ask, or no answer came in time (`link_lost`,
                `evidence_busy`, `evidence_timeout`).
        """

    def drop(self, reason: str) -> None:
        """Close the link for breaking the rules; the node may dial again."""


class GatewaySide(Protocol):
    """What a gateway gives to its `LinkServer`."""

    async def admit_provider(self, provider: bytes, offers: Sequence[SignedOffer]) -> None:
        """Raise a PeerError or Refusal to turn a provider away (not staked, offers that differ from the registry)."""

    def known_lanes(self, provider: bytes) -> Sequence[LaneState]:
        """Say how far each lane with a provider is known, so that the node sends what came after."""

    def on_link_up(self, link: ProviderLink) -> None:
        """Start to route to a provider: a new link, one whose connection is back, or one with new offers."""

    def on_link_down(self, link: ProviderLink, reason: str) -> None:
        """Stop routing; calls in flight are resumed within the resume window, or fail with ``link_lost``."""

    async def on_batch(
        self, link: ProviderLink, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> None:
        """Take a signed batch; `entries` is empty unless the node resends it or the gateway asked for the whole.

        A batch whose head is already in the lane may come again: it is to be ignored.

        Raises:
            PeerError: it breaks the lane's rules; the link is dropped and the event recorded.
        """

    async def on_claim(self, link: ProviderLink, claim: LaneClaim) -> None:
        """Take the next part of the history of a lane that the gateway doesn't know, checked by its own tags.

        Raises:
            PeerError: it breaks the lane's rules; the link is dropped and the event recorded.
        """

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        """Record that a peer was turned away or dropped; `account` is None while it isn't proven."""


class LaneClaim(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The history of a lane from its first batch on, in parts of at most 16 batches.

    The parts come in order, each beginning after the last batch of the one before (the first with `seq` 1); `entries`
    has one tuple for each batch. `is_last` ends the claim and may bring the best voucher that the provider holds.
    """

    lane: Lane
    batches: Annotated[tuple[SignedBatch, ...], Meta(max_length=MAX_CLAIM_BATCHES)]
    entries: Annotated[
        tuple[Annotated[tuple[LeafEntry, ...], Meta(max_length=MAX_BATCH_CALLS)], ...],
        Meta(max_length=MAX_CLAIM_BATCHES),
    ]
    voucher: SignedVoucher | None
    is_last: bool = True


class GatewayLink(Protocol):
    """A node's end of one link; `gateway` is proven. What is sent on a session that is over goes nowhere."""

    session: bytes
    gateway: bytes

    @property
    def is_up(self) -> bool:
        """Whether the connection stands; what is sent meanwhile is kept for the resume window."""

    @property
    def is_over(self) -> bool:
        """Whether the session has ended: what is sent on it goes nowhere."""

    async def send_piece(self, call_id: bytes, piece: Piece) -> bool:
        """Send a chunk; waits while the gateway has granted no more, or 64 KiB of the stream aren't acknowledged.

        Returns True once it is sent, False if the call is over. Cancelled while it waits, nothing was sent. One at a
        time for each call.
        """

    def send_done(self, call_id: bytes, receipt: Receipt, piece: Piece | None) -> None:
        """End a call with its receipt (and its only piece, for calls that don't stream).

        Raises:
            TooLarge: the piece is longer than a message may be; nothing was sent and the call is still open.
        """

    def send_fail(self, call_id: bytes, failure: Failure) -> None:
        """End a call without a receipt."""

    def send_batch(self, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry] = ()) -> None:
        """Send a batch that is already on disk."""

    def send_claim(self, claim: LaneClaim) -> None:
        """Send the history of a lane that the gateway doesn't know."""

    async def send_evidence(self, receipt_hash: bytes, evidence: bytes | None) -> None:
        """Show a receipt's evidence, at most 16 MiB, or (None) say that there is none; waits like `drain`."""

    async def drain(self) -> None:
        """Wait while much of what was sent isn't acknowledged; for whoever sends long histories."""

    def update_offers(self, offers: Sequence[SignedOffer]) -> None:
        """Tell the gateway of new terms; it asks `admit_provider` again and drops the link if it is refused."""


class NodeSide(Protocol):
    """What a node gives to its `LinkClient`s."""

    async def admit_gateway(self, gateway: bytes) -> None:
        """Raise a PeerError or Refusal for a gateway that is not in the registry or has no stake."""

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        """Start to work on an order."""

    def on_cancel(self, link: GatewayLink, call_id: bytes) -> None:
        """Stop the engine; end the call with a receipt for what was sent."""

    async def on_voucher(self, link: GatewayLink, signed: SignedVoucher) -> None:
        """Check and keep a voucher; raises a PeerError for one that breaks the lane's rules."""

    def on_lanes_known(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Learn how far the gateway knows each lane, before the first order of a new session can come.

        Raises:
            PeerError: a lane that isn't between the two; the session is ended and the event recorded.
        """

    async def on_link_up(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Learn of a new session and how far the gateway knows each lane: resend later batches, claim unknown lanes.

        Not called when a connection is back within the resume window: the session goes on by itself.
        """

    async def on_batches_wanted(self, link: GatewayLink, state: LaneState) -> None:
        """Send all batches of a lane after `state` again, each with its leaf entries."""

    def on_evidence_asked(self, link: GatewayLink, receipt_hash: bytes) -> None:
        """Answer with `send_evidence`, when there is time for it; never more than it can bear."""

    def on_link_down(self, link: GatewayLink, reason: str) -> None:
        """Learn that the connection is gone; the client dials again by itself. When the session is over too,
        `on_cancel` follows for every call that is still open.
        """

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        """Record that a gateway was turned away or dropped; `account` is None while it isn't proven."""
