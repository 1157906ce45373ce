"""The node's way to one gateway: dials, proves itself, and dials again for as long as it runs.

1. A lost connection is dialled again at once, then with growing, jittered pauses of at most 1.5 s.
2. A gateway that refuses us, or breaks the rules, is dialled again with pauses of at most `refused_pause_s`.
3. Within the resume window the session goes on, without a look at the chain; a gateway that forgot it gets a new one,
   and the old one's calls are cancelled.

Law: docs/spec/link.md, sections 3 and 4.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog
from picows import WSError, ws_connect

from steelyard.errors import BadMessage, PeerError, Refusal, SteelyardError, Unavailable
from steelyard.link.channel import check_url, client_channel
from steelyard.link.checks import check_state
from steelyard.link.frames import FrameDecoder, Goodbye, Ready, ToNodeFirst, Welcome, encode_frame
from steelyard.link.gateway_link import GatewaySession
from steelyard.link.handshake import NodeHandshake
from steelyard.link.limits import LinkLimits
from steelyard.link.pipe import as_error, build_goodbye
from steelyard.link.port import NodeSide, SignedOffer
from steelyard.link.wire import Wire, websocket_options
from steelyard.protocol.signing import Domain, SigningKey

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.5
_STEADY_S = 2.0
"""A link that stood so long is dialled again at once; one that keeps breaking waits longer each time."""

_CHECK_S = 1.0
_log = structlog.get_logger("steelyard.link")


class LinkClient:
    """Keeps one link to one gateway up while `run` runs.

    Args:
        url: wss://host:port/link, or ws:// on loopback. key: the provider's. domain: of the deployment.
        side: what the node does with links. offers: what to tell the gateway when a connection is made.
        gateway: the account that must answer there, None for whoever proves to be a gateway.
        ssl_context: None for the system's certificates. refused_pause_s: the longest pause after a refusal.
        random_bytes: for nonces. jitter: uniform in [0, 1).

    Raises:
        ConfigError: the URL isn't one that a link may be opened to.
    """

    def __init__(
        self,
        url: str,
        key: SigningKey,
        domain: Domain,
        side: NodeSide,
        *,
        offers: Callable[[], tuple[SignedOffer, ...]] = tuple,
        limits: LinkLimits | None = None,
        gateway: bytes | None = None,
        ssl_context: ssl.SSLContext | None = None,
        refused_pause_s: float = 10.0,
        random_bytes: Callable[[int], bytes] = os.urandom,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        check_url(url)
        self.url = url if urlsplit(url).path not in ("", "/") else url.rstrip("/") + "/link"
        self.limits = limits or LinkLimits()
        self._key = key
        self._domain = domain
        self._side = side
        self._offers = offers
        self._expected = gateway
        self._ssl_context = ssl_context
        self._refused_pause_s = refused_pause_s
        self._random_bytes = random_bytes
        self._jitter = jitter
        self._session: GatewaySession | None = None
        self._is_closed = False
        self._wake = asyncio.Event()
        self._down: asyncio.Future[str] | None = None

    @property
    def link(self) -> GatewaySession | None:
        """The session, if there is one; it may be without a connection for a while."""
        return self._session

    async def run(self) -> None:
        """Keep the link up until `aclose`; refusals and lost connections are logged, never raised."""
        attempt = 0
        while not self._is_closed:
            longest_s = _LONGEST_PAUSE_S
            try:
                down = await self._connect()
                up_s = asyncio.get_running_loop().time()
                reason = await self._watch(down)
                if asyncio.get_running_loop().time() - up_s > _STEADY_S:
                    attempt = 0
                _log.info("link_lost", url=self.url, reason=reason)
            except (OSError, TimeoutError, WSError) as error:
                _log.info("link_unreachable", url=self.url, reason=str(error) or type(error).__name__)
            except SteelyardError as error:  # whatever it is, the next dial may go better: a chain may be back by then
                if isinstance(error, PeerError | Refusal):
                    longest_s = self._refused_pause_s
                _log.warning("link_refused", url=self.url, code=error.code, reason=error.message)
            attempt += 1
            await self._pause(min(longest_s, _FIRST_PAUSE_S * 2 ** min(attempt, 12)) * (0.5 + self._jitter() / 2))

    async def aclose(self) -> None:
        """Tell the gateway goodbye and stop `run`; calls in flight are cancelled."""
        self._is_closed = True
        self._wake.set()
        session = self._session
        if session is not None:
            session.end("the node is stopping")
            self._session = None
            await session.join()
        if self._down is not None and not self._down.done():
            self._down.set_result("the node is stopping")

    def abort(self) -> None:
        """Stop `run` and cut the connection without a word, as the death of this process would."""
        self._is_closed = True
        self._wake.set()
        if self._session is not None:
            self._session.pipe.abort()
        if self._down is not None and not self._down.done():
            self._down.set_result("aborted")

    async def _watch(self, down: asyncio.Future[str]) -> str:
        while True:
            done, _ = await asyncio.wait([down], timeout=_CHECK_S)
            if done:
                return down.result()
            if self._session is not None:
                self._session.check()

    async def _pause(self, pause_s: float) -> None:
        if not self._is_closed:
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _connect(self) -> asyncio.Future[str]:
        """Dial, shake hands and attach; return the future of the connection's end."""
        down: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        greeting = _Greeting(self.limits)
        wire = greeting.wire
        try:
            async with asyncio.timeout(self.limits.handshake_s * 2):
                await ws_connect(
                    lambda: wire, self.url, ssl_context=self._ssl_context, **websocket_options(self.limits)
                )
                await self._shake(greeting, down)
        except SteelyardError as error:
            if not isinstance(error, _ByPeer):
                self._side.on_peer_refused(greeting.gateway, error)
            wire.close(encode_frame(build_goodbye(error, error.message, is_over=True)))
            raise
        except BaseException:
            wire.abort()
            raise
        return down

    async def _shake(self, greeting: _Greeting, down: asyncio.Future[str]) -> None:
        wire = greeting.wire
        if not wire.peer_host:
            raise ConnectionResetError("the connection was lost before the handshake")
        channel = client_channel(wire.ssl_object, wire.peer_host)
        handshake = NodeHandshake(self._key, self._domain, channel, self._random_bytes(32), self._expected)
        wire.send(encode_frame(handshake.hello()))
        welcome = await greeting.next_frame()
        if not isinstance(welcome, Welcome):
            raise BadMessage(f"the gateway answered a hello with {type(welcome).__name__}")
        session = self._session
        known = session is not None and not session.is_over and session.gateway == welcome.account
        proof = handshake.answer(
            welcome,
            session.session if session is not None and known else b"",
            session.pipe.inbox.tell() if session is not None and known else 0,
            self.limits.max_calls,
            self._offers(),
        )
        greeting.gateway = welcome.account
        if not known:  # whom we serve already, and who proved to be it again, needs no chain to go on
            await self._side.admit_gateway(welcome.account)
        # attached from within the message: what follows it must find the session there
        greeting.on_ready = lambda ready: self._attach(wire, welcome.account, ready, proof.session, down)
        wire.send(encode_frame(proof))
        ready = await greeting.next_frame()
        if not isinstance(ready, Ready):
            raise BadMessage(f"the gateway answered a proof with {type(ready).__name__}")
        _log.info("link_up", url=self.url, gateway="0x" + welcome.account.hex(), is_resumed=ready.is_resumed)

    def _attach(self, wire: Wire, gateway: bytes, ready: Ready, asked: bytes, down: asyncio.Future[str]) -> None:
        for state in ready.lanes:
            check_state(state)
        if self._is_closed:
            raise Unavailable("the node is stopping")
        session = self._session
        if ready.is_resumed:
            if session is None or session.is_over or not asked or ready.session != asked:
                raise BadMessage("the gateway resumes a session that isn't ours, or is over")
            self._down = down
            session.resume(wire, ready.received)
            return
        self._session = None
        if session is not None:
            session.end("the gateway began a new session")
        self._down = down
        begun = GatewaySession(ready.session, gateway, self._side, self.limits, self._on_down)
        begun.begin(wire, ready.lanes)
        self._session = begun

    def _on_down(self, session: GatewaySession | None, reason: str) -> None:
        if self._session is session and self._down is not None and not self._down.done():
            self._down.set_result(reason)


class _ByPeer(PeerError):
    """The peer refused us: nothing to record against it."""


class _Greeting:
    """The frames of a handshake, one at a time, from a connection that may end at any moment."""

    def __init__(self, limits: LinkLimits) -> None:
        self.wire = Wire(limits)
        self.wire.on_message = self._on_message
        self.wire.on_lost = self._on_lost
        self.gateway: bytes | None = None
        self.on_ready: Callable[[Ready], None] | None = None
        self._decoder = FrameDecoder[ToNodeFirst](ToNodeFirst)
        self._frames: asyncio.Queue[ToNodeFirst | Exception] = asyncio.Queue(4)

    async def next_frame(self) -> ToNodeFirst:
        """Return the next frame; raises the error that took its place."""
        frame = await self._frames.get()
        if isinstance(frame, Goodbye):
            raise _ByPeer(as_error(frame).message, code=frame.code)
        if isinstance(frame, Exception):
            raise frame
        return frame

    def _on_message(self, message: bytes | memoryview) -> None:
        try:
            for frame in self._decoder.decode(message):
                if isinstance(frame, Ready) and self.on_ready is not None:
                    self.on_ready(frame)
                self._put(frame)
        except SteelyardError as error:
            self._put(error)

    def _on_lost(self, reason: str, error: PeerError | None) -> None:
        self._put(error or ConnectionResetError(f"the gateway hung up during the handshake: {reason}"))

    def _put(self, item: ToNodeFirst | Exception) -> None:
        if self._frames.full():
            self.wire.abort()
        else:
            self._frames.put_nowait(item)
