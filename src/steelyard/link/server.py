"""The gateway's door for nodes: accepts connections, proves their peers, keeps one session for each provider.

1. Whoever isn't proven within the handshake's time is dropped; few may be unproven at once, and they may say little.
2. A provider has one session. A connection that names it within the resume window continues it; any other replaces it.
3. Every refusal is recorded with its reason, with the account if it was proven.

Law: docs/spec/link.md, sections 3 to 5.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from picows import (
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from steelyard.errors import BadMessage, ConfigError, Fault, PeerError, SteelyardError, Unavailable
from steelyard.link.channel import TlsIdentity, server_channel
from steelyard.link.frames import MAX_LANES, FrameDecoder, Hello, Proof, Ready, ToGatewayFirst, encode_frame
from steelyard.link.handshake import GatewayHandshake
from steelyard.link.limits import HELLO_BYTES, PROOF_BYTES, LinkLimits
from steelyard.link.pipe import build_goodbye
from steelyard.link.port import GatewaySide
from steelyard.link.provider_link import ProviderSession
from steelyard.link.wire import Wire, websocket_options
from steelyard.protocol.lanes import SignedVoucher
from steelyard.protocol.signing import Domain, SigningKey

LINK_PATH = "/link"
_CHECK_S = 1.0
_log = structlog.get_logger("steelyard.link")


def unix_ms() -> int:
    """Return the time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class LinkServer:
    """Listens for nodes on behalf of one gateway process.

    Args:
        key: the gateway's. domain: of its deployment. side: what the gateway does with links.
        limits: bounds of each link. clock: Unix ms, for deadlines. random_bytes: for nonces and session ids.
    """

    def __init__(
        self,
        key: SigningKey,
        domain: Domain,
        side: GatewaySide,
        limits: LinkLimits | None = None,
        clock: Callable[[], int] = unix_ms,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.side = side
        self.limits = limits or LinkLimits()
        self.random_bytes = random_bytes
        self._key = key
        self._domain = domain
        self._clock = clock
        self._identity: TlsIdentity | None = None
        self._server: asyncio.Server | None = None
        self._sessions: dict[bytes, ProviderSession] = {}
        self._vouchers: dict[bytes, dict[tuple[bytes, int], SignedVoucher]] = {}
        self._arrivals: set[_Arrival] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def links(self) -> tuple[ProviderSession, ...]:
        """All sessions, up or within their resume window."""
        return tuple(self._sessions.values())

    async def start(self, host: str, port: int, ssl: TlsIdentity | None = None) -> int:
        """Listen, and return the port (a free one for 0).

        Raises:
            ConfigError: the port is in use, or the host isn't ours.
        """
        self._identity = ssl
        options: dict[str, Any] = dict(websocket_options(self.limits))
        if ssl is not None and ssl.context is not None:
            options["ssl"] = ssl.context
        try:
            self._server = await ws_create_server(self._accept, host, port, **options)
        except OSError as error:
            raise ConfigError(f"can't listen for nodes on {host}:{port}: {error.strerror or error}") from error
        self._check()
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def aclose(self) -> None:
        """Stop listening, tell the nodes, and end every session; calls in flight fail with ``link_lost``."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
        for arrival in tuple(self._arrivals):
            arrival.wire.abort()
        self._arrivals.clear()
        sessions = self.links
        for session in sessions:
            session.end("the gateway is stopping")
        for session in sessions:
            await session.join()

    def welcome(self, wire: Wire) -> GatewayHandshake:
        """Return the handshake for a new connection; raises BadMessage where TLS is missing."""
        peer = wire.peer_host
        return GatewayHandshake(self._key, self._domain, server_channel(self._identity, peer), self.random_bytes(32))

    def admit(self, wire: Wire, proof: Proof, provider: bytes) -> None:
        """Continue a provider's session on a new connection, or begin one.

        Raises:
            Unavailable: too many providers. BadMessage: the node claims to have received what was never sent.
        """
        session = self._sessions.get(provider)
        if session is not None and session.session == proof.session and proof.session:
            session.offers = proof.offers
            session.attach(wire, proof.received, Ready(session.session, True, session.pipe.inbox.tell(), ()))
            return
        if session is not None:
            session.end("the node began a new session")
        if len(self._sessions) >= self.limits.max_links:
            raise Unavailable(f"this gateway has its {self.limits.max_links} links already", code="gateway_full")
        session = ProviderSession(
            self.random_bytes(16),
            provider,
            proof.offers,
            proof.max_calls,
            self.side,
            self.limits,
            self._forget,
            self._vouchers.setdefault(provider, {}),
        )
        self._sessions[provider] = session
        lanes = tuple(self.side.known_lanes(provider))[-MAX_LANES:]
        session.attach(wire, 0, Ready(session.session, False, 0, lanes))

    def resumes(self, proof: Proof, provider: bytes) -> bool:
        """Whether a connection goes on with a session as it was: its offers were admitted, and are watched since."""
        session = self._sessions.get(provider)
        return (
            session is not None
            and session.session == proof.session
            and session.offers == proof.offers
            and bool(proof.session)
        )

    def check_crowd(self, host: str) -> None:
        """Refuse an address that has too many connections waiting for their handshake; raises BadMessage."""
        waiting = sum(arrival.host == host for arrival in self._arrivals)
        if waiting > self.limits.max_pending_per_host:
            most = self.limits.max_pending_per_host
            raise BadMessage(f"{waiting} connections from {host} are not proven yet, {most} may be", code="crowd")

    def settle(self, arrival: _Arrival) -> None:
        """Note that a connection is no longer waiting for its handshake."""
        self._arrivals.discard(arrival)

    def _accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener | None:
        if request.path.partition(b"?")[0] != LINK_PATH.encode():
            return None
        if len(self._arrivals) >= self.limits.max_pending:
            busy = WSUpgradeResponse.create_error_response(HTTPStatus.SERVICE_UNAVAILABLE, b"too many handshakes\n")
            return WSUpgradeResponseWithListener(busy, None)
        arrival = _Arrival(self)
        self._arrivals.add(arrival)
        return arrival.wire

    def _forget(self, session: ProviderSession) -> None:
        if self._sessions.get(session.provider) is session:
            del self._sessions[session.provider]

    def _check(self) -> None:
        now_ms = self._clock()
        for session in self.links:
            session.check(now_ms)
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)


class _Arrival:
    """A connection whose peer isn't proven yet."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._handshake: GatewayHandshake | None = None
        self._decoder = FrameDecoder[ToGatewayFirst](ToGatewayFirst)
        self._task: asyncio.Task[None] | None = None
        self._provider: bytes | None = None
        self.host: str | None = None
        self.wire = Wire(server.limits)
        self.wire.max_message_bytes = HELLO_BYTES
        self.wire.on_open = self._on_open
        self.wire.on_message = self._on_message
        self.wire.on_lost = self._on_lost
        self._timer = asyncio.get_running_loop().call_later(
            server.limits.handshake_s,
            lambda: self._refuse(BadMessage("no handshake in time", code="handshake_timeout")),
        )

    def _on_open(self) -> None:
        self.host = self.wire.peer_host
        try:
            self._server.check_crowd(self.host)
            self._handshake = self._server.welcome(self.wire)
        except PeerError as error:
            self._refuse(error)

    def _on_message(self, message: bytes | memoryview) -> None:
        try:
            for frame in self._decoder.decode(message):
                self._take(frame)
        except SteelyardError as error:
            self._refuse(error)

    def _take(self, frame: ToGatewayFirst) -> None:
        if self._handshake is None or self._task is not None:
            raise BadMessage("a frame out of turn in the handshake")
        if isinstance(frame, Hello):
            self.wire.send(encode_frame(self._handshake.welcome(frame)))
            self.wire.max_message_bytes = PROOF_BYTES
        elif isinstance(frame, Proof):
            self._provider = self._handshake.verify(frame)
            self._timer.cancel()
            self._task = asyncio.create_task(self._admit(frame, self._provider), name="link-admit")
        else:
            self._settle()
            self.wire.close()

    async def _admit(self, proof: Proof, provider: bytes) -> None:
        server = self._server
        try:
            if not server.resumes(proof, provider):
                async with asyncio.timeout(server.limits.handshake_s):
                    await server.side.admit_provider(provider, proof.offers)
            if self in server._arrivals:
                self.wire.max_message_bytes = server.limits.max_message_bytes
                self._settle()
                server.admit(self.wire, proof, provider)
        except SteelyardError as error:
            self._refuse(error)
        except TimeoutError:
            self._refuse(Unavailable("the gateway could not check this provider in time", code="admit_timeout"))
        except Exception as error:  # a supervisor: our own fault ends this connection, and is logged whole
            _log.exception("link_admit_failed")
            self._refuse(Fault(f"{type(error).__name__} in admit_provider"))

    def _refuse(self, error: SteelyardError) -> None:
        self._settle()
        self._server.side.on_peer_refused(self._provider, error)
        self.wire.close(encode_frame(build_goodbye(error, error.message, is_over=True)))

    def _on_lost(self, reason: str, error: PeerError | None) -> None:
        self._settle()
        if error is not None:
            self._server.side.on_peer_refused(self._provider, error)

    def _settle(self) -> None:
        self._timer.cancel()
        self._server.settle(self)
