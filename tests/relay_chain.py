"""A toy EVM chain and nodes of it, for tests of the relay: behind the real kind `rpc`, without a process or a socket.

chain = ToyChain()
node = await world.add_node(0, service=relay_service(ToyNode(chain)), model="eth")
chain.mine(); chain.reorganise(2)

A node can lag, lie about its heads, refuse, or be counted: `asked` holds every method that it was asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from steelyard.services.manifest import Manifest
from steelyard.services.rpc import RpcService
from steelyard.services.rpc.messages import RpcItem, RpcPayload, build_response, error_object, join_responses


def relay_manifest(name: str = "eth", family: str = "") -> Manifest:
    """Return the manifest of a chain's relay."""
    return RpcService.describe(name, family=family)


def relay_service(node: ToyNode, name: str = "eth") -> RpcService:
    """Return the real kind over a toy node."""
    service = RpcService(relay_manifest(name))
    service._upstream = node  # type: ignore[assignment]  # it has what the kind asks of an upstream
    return service


@dataclass(eq=False)
class ToyChain:
    """Blocks by height; whoever follows hears of each new head."""

    blocks: list[dict[str, Any]] = field(default_factory=list)
    followers: list[asyncio.Queue[dict[str, Any]]] = field(default_factory=list)
    forks: int = 0

    def __post_init__(self) -> None:
        self.mine()

    @property
    def height(self) -> int:
        """Of the newest block."""
        return len(self.blocks) - 1

    def mine(self, count: int = 1) -> None:
        """Add blocks."""
        for _ in range(count):
            number = len(self.blocks)
            parent = self.blocks[-1]["hash"] if self.blocks else "0x00"
            block = {"number": hex(number), "hash": f"0x{self.forks:02x}{number:06x}", "parentHash": parent}
            self.blocks.append(block | {"transactions": [f"0xt{number}"], "size": "0x1"})
            for follower in self.followers:
                follower.put_nowait(self.blocks[-1])

    def reorganise(self, depth: int) -> None:
        """Replace the newest blocks by as many others and one more."""
        del self.blocks[len(self.blocks) - depth :]
        self.forks += 1
        self.mine(depth + 1)


@dataclass(eq=False)
class ToyNode:
    """One operator's node: what it knows of the chain, and how it misbehaves.

    Attributes:
        lag: so many blocks behind. asked: methods, in order. lie: replaces a head that is told to subscribers.
        is_mute: tells subscribers nothing. refusal: of subscriptions. gate: calls wait for it.
        chain_id, height: what it says of itself, whatever the chain is. has_state: of old blocks. balance: in wei.
        delay_s: before each answer.
    """

    chain: ToyChain
    lag: int = 0
    asked: list[str] = field(default_factory=list)
    lie: Any = None
    is_mute: bool = False
    subscribers: int = 0
    chain_id: bytes = b"0x1"
    height: int | None = None
    has_state: bool = True
    balance: int | None = None
    delay_s: float = 0.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def call(self, payload: RpcPayload) -> bytes:
        """Answer as a node does."""
        await self.gate.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        responses = []
        for item in payload.items:
            error = item.error
            result = b"" if error else self._answer(item)
            if not error and not result:
                error = error_object(-32000, "execution reverted")
            if item.id_raw:
                responses.append(build_response(item.id_raw, result=result, error=error))
        return join_responses(responses, is_batch=payload.is_batch)

    def _answer(self, item: RpcItem) -> bytes:
        self.asked.append(item.method)
        params = json.loads(item.params_raw or b"[]")
        height = self.chain.height - self.lag
        match item.method:
            case "eth_blockNumber":
                return b'"%s"' % hex(height if self.height is None else self.height).encode()
            case "eth_chainId":
                return b'"%s"' % self.chain_id
            case "eth_getBlockByNumber":
                number = height if params[0] == "latest" else int(params[0], 16)
                return b"null" if number > height else json.dumps(self.chain.blocks[number]).encode()
            case "eth_getBalance":
                if params[1:] != ["latest"] and int(params[1], 16) < height - 128 and not self.has_state:
                    return b""
                return b'"0x%x"' % (len(self.asked) if self.balance is None else self.balance)
            case _:
                return b""

    async def subscribe(self, payload: RpcPayload) -> AsyncGenerator[bytes | None, None]:
        """Tell of new heads (or of nothing), for so many messages."""
        (kind, *_) = json.loads(payload.items[0].params_raw)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.chain.followers.append(queue)
        self.subscribers += 1
        try:
            yield None
            for _ in range(payload.max_messages):
                block = await queue.get()
                while self.is_mute:
                    block = await queue.get()
                head = {key: value for key, value in block.items() if key not in ("transactions", "size")}
                if self.lie is not None:
                    head = self.lie(head)
                yield json.dumps(head if kind == "newHeads" else block["hash"]).encode()
        finally:
            self.subscribers -= 1
            self.chain.followers.remove(queue)
