"""Peers that follow no rules: a node and a gateway that shake hands as told and then send any bytes.

node = await RawNode.dial(port)                 # proven; node.sent counts nothing
node.send_message(b"garbage")
await node.lost.wait()
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from picows import WSListener, WSMsgType, WSUpgradeRequest, ws_connect, ws_create_server
from tests.link_world import DOMAIN, GATEWAY_KEY, LIMITS, PROVIDER_KEY

from steelyard.link.frames import (
    Frame,
    FrameDecoder,
    Goodbye,
    Hello,
    Proof,
    Ready,
    ToGateway,
    ToGatewayFirst,
    ToNode,
    ToNodeFirst,
    Welcome,
    encode_frame,
    join_frames,
)
from steelyard.link.handshake import GatewayHandshake, NodeHandshake
from steelyard.link.port import SignedOffer
from steelyard.link.wire import Wire
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.signing import Domain, SigningKey


class RawPeer:
    """What both have in common: a wire, the frames that came, and the goodbye."""

    def __init__(self) -> None:
        self.wire = Wire(LIMITS)
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.goodbye: Goodbye | None = None
        self.wire.on_lost = lambda reason, error: self.lost.set()

    def send_message(self, message: bytes) -> None:
        """Send one WebSocket message of any bytes."""
        self.wire._transport.send(WSMsgType.BINARY, message)  # type: ignore[union-attr]

    def send(self, *frames: Frame) -> None:
        """Send frames as one message."""
        self.send_message(join_frames([encode_frame(frame) for frame in frames]))

    def _take(self, decoder: FrameDecoder[Frame], message: bytes | memoryview) -> None:
        for frame in decoder.decode(message):
            if isinstance(frame, Goodbye):
                self.goodbye = frame
            self.frames.put_nowait(frame)


class RawNode(RawPeer):
    """A node by hand; after `dial` it has read `Ready`."""

    ready: Ready

    async def connect(self, port: int) -> None:
        """Open the WebSocket and say nothing."""
        await ws_connect(lambda: self.wire, f"ws://127.0.0.1:{port}/link", enable_auto_pong=True)

    @classmethod
    async def dial(
        cls,
        port: int,
        key: SigningKey = PROVIDER_KEY,
        domain: Domain = DOMAIN,
        *,
        session: bytes = b"",
        received: int = 0,
        channel: bytes = ZERO32,
        offers: tuple[SignedOffer, ...] = (),
    ) -> RawNode:
        """Shake hands; raises ConnectionError with the goodbye's code if refused."""
        node = cls()
        first, later = FrameDecoder[Frame](ToNodeFirst), FrameDecoder[Frame](ToNode)
        node.wire.on_message = lambda message: node._take(first, message)
        await node.connect(port)
        handshake = NodeHandshake(key, domain, channel, b"\x44" * 32, None)
        node.send(handshake.hello())
        welcome = await node.next_frame()
        assert isinstance(welcome, Welcome)
        node.send(handshake.answer(welcome, session, received, 100, offers))

        def become_ready(message: bytes | memoryview) -> None:
            node._take(first, message)
            node.wire.on_message = lambda message: node._take(later, message)

        node.wire.on_message = become_ready
        ready = await node.next_frame()
        assert isinstance(ready, Ready)
        node.ready = ready
        return node

    async def next_frame(self) -> Frame:
        """Return the next frame; raises ConnectionError if the gateway says goodbye or hangs up instead."""
        get = asyncio.create_task(self.frames.get())
        lost = asyncio.create_task(self.lost.wait())
        await asyncio.wait([get, lost], timeout=5, return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        if not get.done():
            get.cancel()
            raise ConnectionError("nothing came")
        frame = get.result()
        if isinstance(frame, Goodbye):
            raise ConnectionError(frame.code)
        return frame


class RawGateway(RawPeer):
    """A gateway by hand: answers handshakes, forgets every session, and keeps the newest connection."""

    def __init__(self, key: SigningKey = GATEWAY_KEY, domain: Domain = DOMAIN) -> None:
        super().__init__()
        self.key = key
        self.domain = domain
        self.connected = asyncio.Event()
        self.proofs: list[Proof] = []
        self.sessions = 0
        self.resumes: Sequence[bytes] = ()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on a free port."""
        self._server = await ws_create_server(self._accept, "127.0.0.1", 0, enable_auto_pong=True)
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Stop, and cut the connection."""
        assert self._server is not None
        self._server.close()
        self.wire.abort()

    def _accept(self, request: WSUpgradeRequest) -> WSListener:
        self.lost.clear()
        self.wire = Wire(LIMITS)
        self.wire.on_lost = lambda reason, error: self.lost.set()
        handshake = GatewayHandshake(self.key, self.domain, ZERO32, b"\x55" * 32)
        first, later = FrameDecoder[Frame](ToGatewayFirst), FrameDecoder[Frame](ToGateway)

        def shake(message: bytes | memoryview) -> None:
            for frame in first.decode(message):
                if isinstance(frame, Hello):
                    self.send(handshake.welcome(frame))
                elif isinstance(frame, Proof):
                    self.proofs.append(frame)
                    self.sessions += 1
                    self.wire.on_message = lambda message: self._take(later, message)
                    self.send(Ready(self.sessions.to_bytes(16, "big"), False, 0, ()))
                    self.connected.set()

        self.wire.on_message = shake
        return self.wire
