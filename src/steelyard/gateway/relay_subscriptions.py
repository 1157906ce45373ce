"""The subscriptions of one socket: their ids, how they begin and end, and the notifications that a client expects.

1. An id is ours: `0x` and 16 bytes, or a number where the chain's nodes give numbers. It never changes.
2. A request is recognised by the chain's family (services/rpc): what begins a subscription, and what ends it.

Law: docs/spec/relay.md, sections 4 and 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from steelyard.errors import BadRequest, RateLimited
from steelyard.gateway.relay import Caller, Relay, unwatched
from steelyard.gateway.relay_feed import API as SUBSCRIBE
from steelyard.gateway.relay_feed import ORDER_S, SHORTEST_SILENCE_S, SILENT_BLOCKS, Feed
from steelyard.gateway.relay_plan import family_of
from steelyard.services.rpc.catalogue import load_chains
from steelyard.services.rpc.messages import INVALID_REQUEST, BadRpc, RpcItem, build_response

if TYPE_CHECKING:
    from steelyard.gateway.attempt import Attempt
    from steelyard.gateway.listing import Listing
    from steelyard.gateway.randomness import RandomPool

_NOTIFICATIONS = {
    "eth_subscribe": "eth_subscription",
    "chain_subscribeNewHeads": "chain_newHead",
    "chain_subscribeNewHead": "chain_newHead",
    "chain_subscribeAllHeads": "chain_allHead",
    "chain_subscribeFinalizedHeads": "chain_finalizedHead",
    "state_subscribeStorage": "state_storage",
    "state_subscribeRuntimeVersion": "state_runtimeVersion",
}
"""Methods of notifications that don't follow from the method that asked for them."""

INVALID_PARAMS = -32602


class _Head(msgspec.Struct):
    method: str = ""


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_ended = msgspec.json.Decoder(list[msgspec.Raw] | dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class SocketCall:
    """A request that begins or ends a subscription."""

    item: RpcItem
    is_end: bool


def read_call(body: bytes, listing: Listing) -> SocketCall | None:
    """Return the request if it begins or ends a subscription, else None: it is an ordinary one.

    Raises:
        BadRpc: it does, and is malformed.
    """
    family = family_of(listing)
    if family is None or not family.subscriptions:
        return None
    try:
        method = _decode_head(body).method
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if family.is_subscription(method):
        payload = listing.service.parse(SUBSCRIBE, body).payload
        return SocketCall(payload.items[0], False)
    if method not in family.subscriptions.values():
        return None
    try:
        end = msgspec.json.decode(body, type=_End)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadRpc(f"{method} needs one id as `params`, in a list or by its name", INVALID_REQUEST) from error
    return SocketCall(RpcItem(bytes(end.id), method, bytes(end.params)), True)


class _End(msgspec.Struct):
    params: msgspec.Raw = msgspec.Raw(b"[]")
    id: msgspec.Raw = msgspec.Raw(b"null")


class Subscriptions:
    """All subscriptions of one socket.

    Args:
        push: takes each notification. check_key: raises once the key isn't good any more. random: for ids.
    """

    def __init__(
        self,
        relay: Relay,
        caller: Caller,
        push: Callable[[bytes], None],
        check_key: Callable[[], Awaitable[object]],
        random: RandomPool,
    ) -> None:
        self._relay = relay
        self._caller = caller
        self._push = push
        self._check_key = check_key
        self._random = random
        self._feeds: dict[bytes, Feed] = {}
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._opening = 0

    @property
    def count(self) -> int:
        """How many there are, those that are being opened among them."""
        return len(self._feeds) + self._opening

    async def begin(self, call: SocketCall) -> tuple[Feed, bytes]:
        """Return a subscription that a provider took, and the answer that names it; raises a Refusal."""
        most = self._relay.settings.relay_subscriptions
        if self.count >= most:
            raise RateLimited(
                f"this socket has {self.count} subscriptions, the most are {most}: end one, or open another socket",
                code="too_many_subscriptions",
            )
        self._opening += 1
        try:
            ident = self._make_id(call.item.method)
            feed = self._build_feed(ident, call.item)
            await feed.open()
        except BadRequest as error:
            raise BadRpc(error.message, INVALID_PARAMS, call.item.id_raw, code=error.code) from error
        finally:
            self._opening -= 1
        self._feeds[ident] = feed
        return feed, build_response(call.item.id_raw or b"null", result=ident)

    async def follow(self, feed: Feed) -> None:
        """Hand on what a subscription brings until it is ended; raises once nobody serves it any more."""
        ident = next((ident for ident, one in self._feeds.items() if one is feed), None)
        task = asyncio.current_task()
        if ident is None or task is None:
            feed.close()
            return
        self._tasks[ident] = task
        try:
            await feed.run()
        finally:
            self._tasks.pop(ident, None)
            self._feeds.pop(ident, None)

    def end(self, call: SocketCall) -> bytes:
        """End a subscription and return the answer: whether there was one."""
        try:
            params = _decode_ended(call.item.params_raw)
            (raw,) = params.values() if isinstance(params, dict) else params
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadRpc(
                f"{call.item.method} needs one id as `params`, in a list or by its name",
                INVALID_REQUEST,
                call.item.id_raw,
            ) from error
        ident = bytes(raw)
        feed, task = self._feeds.pop(ident, None), self._tasks.pop(ident, None)
        if task is not None:
            task.cancel()
        elif feed is not None:
            feed.close()
        return build_response(call.item.id_raw or b"null", result=b"false" if feed is None else b"true")

    def _make_id(self, method: str) -> bytes:
        if method.startswith("eth_") or "_" in method:
            return b'"0x%s"' % self._random.take(16).hex().encode()
        return b"%d" % (int.from_bytes(self._random.take(8), "big") >> 16)

    def _build_feed(self, ident: bytes, item: RpcItem) -> Feed:
        relay, caller = self._relay, self._caller
        row = load_chains().get(caller.listing.manifest.chain)
        head = b'{"jsonrpc":"2.0","method":"%s","params":{"%s":%s,"result":' % (
            notification_of(item.method).encode(),
            b"subscription_id" if item.method.startswith("starknet_") else b"subscription",
            ident,
        )

        async def buy(body: bytes, avoided: frozenset[bytes]) -> Attempt:
            return await relay.subscribe(caller, body, avoided)

        async def ask(body: bytes) -> bytes:
            return (await relay.ask(caller, body, unwatched())).body

        return Feed(
            item,
            buy,
            ask,
            show=lambda result: self._push(b"%s%s}}" % (head, result)),
            check_key=self._check_key,
            clock=relay.clock,
            order_s=max(1, min(ORDER_S, int(relay.settings.deadline_s * 0.8))),
            silence_s=max(SHORTEST_SILENCE_S, SILENT_BLOCKS * (12.0 if row is None else row.block_s)),
            is_heads=is_heads(item),
            hear=partial(relay.watch.note_height, caller.listing),
        )


def is_heads(item: RpcItem) -> bool:
    """Say whether a request is `eth_subscribe ["newHeads"]`."""
    if item.method != "eth_subscribe":
        return False
    try:
        return bool(msgspec.json.decode(item.params_raw)[:1] == ["newHeads"])
    except (msgspec.MsgspecError, TypeError):
        return False


def notification_of(method: str) -> str:
    """Return the method under which a subscription's notifications come."""
    if method in _NOTIFICATIONS:
        return _NOTIFICATIONS[method]
    if method.startswith("starknet_subscribe"):
        return method.replace("subscribe", "subscription", 1)
    return method.removesuffix("Subscribe") + "Notification" if method.endswith("Subscribe") else method
