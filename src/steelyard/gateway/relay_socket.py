"""JSON-RPC over a WebSocket: plain requests are ordinary orders, subscriptions outlive their providers.

close code  when
----------  ----------------------------------------------------------------------------------
1009        a message over `max_body_bytes`
1011        a bug of ours
1012        the gateway stops
1013        a subscription that no provider serves any more
4001        the key was revoked or has expired
4008        the client reads too slowly: more than `OUTBOX_BYTES` wait for it

1. A request is answered when it is ready, in any order; its id tells which it was. What is asked is bounded: messages a
   minute, requests at once, subscriptions. Each bound has its own error, with the id kept.
2. The ids of subscriptions are ours, and stay while providers change (relay_feed.py).
3. A client that goes takes all its orders with it; what was received is settled.

Law: docs/spec/relay.md, section 4.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from steelyard.errors import RateLimited, SteelyardError, Unauthorized
from steelyard.gateway.preferences import read_preferences
from steelyard.gateway.rate_limits import TokenBucket
from steelyard.gateway.relay import Caller, Describe, Relay, unwatched
from steelyard.gateway.relay_errors import NO_ID, read_ids, refusal_reply
from steelyard.gateway.relay_feed import Feed, why_lost
from steelyard.gateway.relay_routes import RPC, RelayRoute, read_route
from steelyard.gateway.relay_subscriptions import Subscriptions, read_call
from steelyard.gateway.replies import Receive, Scope, Send
from steelyard.gateway.request_bodies import ClientGone, is_private
from steelyard.gateway.socket_protocol import DROP

if TYPE_CHECKING:
    from steelyard.gateway.randomness import RandomPool

SLOW_CLIENT, KEY_REFUSED, FEED_LOST, FAULT = 4008, 4001, 1013, 1011
OUTBOX_BYTES = 8 << 20
MAX_REQUESTS = 64
"""Requests of one socket that are being answered."""

MAX_SOCKETS = 2_048


class RelaySockets:
    """All sockets of one gateway."""

    def __init__(self, relay: Relay, random: RandomPool) -> None:
        self._relay = relay
        self._random = random
        self.count = 0

    async def serve(self, scope: Scope, receive: Receive, send: Send, describe: Describe) -> int:
        """Serve one client's socket to its end, and return the status that it was opened or refused with."""
        await receive()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        relay, route = self._relay, read_route(scope["path"], headers)
        try:
            if route is None or route.front != RPC:
                route = RelayRoute(RPC, scope["path"].strip("/"), headers.get(b"authorization"))
            account = await relay.admit(route.authorization)
            listing = await relay.find_listing(route.service)
            if self.count >= MAX_SOCKETS:
                raise RateLimited(f"{self.count} sockets are open here: try again in a while", retry_after_s=5.0)
            wished = read_preferences(b"", headers)
        except Exception as error:  # a supervisor: `describe` logs what is no refusal, and shows it as an id
            reply = refusal_reply(describe(error), (NO_ID,), is_batch=False)
            start = {"type": "websocket.http.response.start", "status": reply.status, "headers": list(reply.headers)}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": reply.body})
            return reply.status
        await send({"type": "websocket.accept"})
        self.count += 1
        drop = scope["extensions"][DROP]
        caller = Caller(account, listing, is_private(headers), wished)
        socket = RelaySocket(relay, caller, route.authorization, send, drop, describe, self._random)
        try:
            await socket.run(receive)
        except Exception as error:  # a supervisor, as above
            describe(error)
            socket.close(FAULT, "the gateway failed on this socket: connect again")
        finally:
            self.count -= 1
        return 101


class RelaySocket:
    """One client's socket.

    Args:
        authorization: the key's header, looked at again with each request. drop: closes the socket without waiting.
        random: for the ids of subscriptions.
    """

    def __init__(
        self,
        relay: Relay,
        caller: Caller,
        authorization: bytes | None,
        send: Send,
        drop: Callable[[int, str], None],
        describe: Describe,
        random: RandomPool,
    ) -> None:
        self._relay = relay
        self._caller = caller
        self._authorization = authorization
        self._send = send
        self._drop = drop
        self._describe = describe
        self._bucket = TokenBucket(relay.settings.relay_messages_per_minute, relay.clock())
        self._subscriptions = Subscriptions(relay, caller, self.push, self.check_key, random)
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._has_mail = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self._followed: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def run(self, receive: Receive) -> None:
        """Serve until the client, a bound or the gateway ends it."""
        writer = asyncio.create_task(self._write(), name="relay-writer")
        try:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                self._take(text.encode() if text is not None else message.get("bytes") or b"")
        finally:
            self._is_closed = True
            tasks = [writer, *self._requests, *self._followed]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def push(self, data: bytes) -> None:
        """Queue a message for the client; one that reads too slowly is dropped."""
        if self._is_closed:
            return
        if self._outbox_bytes > OUTBOX_BYTES:
            self.close(SLOW_CLIENT, f"over {OUTBOX_BYTES} bytes wait for you: read faster, or subscribe to less")
            return
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        self._has_mail.set()

    def close(self, code: int, reason: str) -> None:
        """Close the socket now; whatever is not yet written is lost."""
        if not self._is_closed:
            self._is_closed = True
            self._outbox.clear()
            self._drop(code, reason)

    async def check_key(self) -> object:
        """Raise Unauthorized once the key isn't good any more."""
        return await self._relay.admit(self._authorization)

    async def _write(self) -> None:
        while True:
            await self._has_mail.wait()
            self._has_mail.clear()
            while self._outbox:
                data = self._outbox.popleft()
                self._outbox_bytes -= len(data)
                try:
                    await self._send({"type": "websocket.send", "text": data.decode()})
                except (OSError, RuntimeError):  # it was dropped, or the client has gone
                    return

    def _take(self, body: bytes) -> None:
        wait_s = self._bucket.take(self._relay.clock())
        if wait_s:
            why = f"this socket may send {self._bucket.per_minute} messages a minute: the next in {wait_s:.1f} s"
            self._refuse(body, RateLimited(why, code="socket_rate_exceeded", retry_after_s=wait_s))
        elif len(self._requests) >= MAX_REQUESTS:
            why = f"{MAX_REQUESTS} requests of this socket are being answered: wait for some"
            self._refuse(body, RateLimited(why, code="too_many_requests", retry_after_s=0.1))
        else:
            _keep(self._requests, asyncio.create_task(self._answer(body), name="relay-request"))

    def _refuse(self, body: bytes, error: SteelyardError) -> None:
        ids, is_batch = read_ids(body)
        self.push(refusal_reply(error, ids, is_batch=is_batch).body)

    async def _answer(self, body: bytes) -> None:
        try:
            account = await self._relay.admit(self._authorization)
            await self._relay.access.take_turn(account)
            call = read_call(body, self._caller.listing)
            if call is None:
                reply = await self._relay.ask(self._caller, body, unwatched())
                if reply.body:
                    self.push(reply.body)
            elif call.is_end:
                self.push(self._subscriptions.end(call))
            else:
                feed, answer = await self._subscriptions.begin(call)
                self.push(answer)
                _keep(self._followed, asyncio.create_task(self._follow(feed), name="relay-subscription"))
        except ClientGone:
            return
        except Unauthorized as error:
            self._refuse(body, error)
            self.close(KEY_REFUSED, error.message[:120])
        except Exception as error:  # a supervisor: `describe` logs what is no refusal, and shows it as an id
            self._refuse(body, self._describe(error))

    async def _follow(self, feed: Feed) -> None:
        try:
            await self._subscriptions.follow(feed)
        except Unauthorized as error:
            self.close(KEY_REFUSED, error.message[:120])
        except Exception as error:  # a supervisor, as above
            self.close(FEED_LOST, why_lost(self._describe(error)))


def _keep(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.add(task)
    task.add_done_callback(tasks.discard)
