"""One subscription across providers: ordered again when its provider dies, lies, falls silent or reaches its limit.

event                                        what happens
-------------------------------------------  -----------------------------------------------------------------------
the order nears its limit                    another is opened beside it; once that one stands, the first is cancelled
the provider is lost, or its engine fails    another order at once, then with pauses, for `REPLAY_S`
a head whose past can't be confirmed         the order is cancelled, and that provider is passed over
silence for `SILENT_BLOCKS` block times      the newest block is asked for; if it is new, the provider is stale
nobody serves it for `REPLAY_S`              `run` raises: the socket is closed with a word

1. Each order is bounded in messages and time; what was received is settled, whoever ends it.
2. Of new heads nothing is missing and nothing comes twice (relay_heads.py); missing blocks are ordinary orders of the
   same key. Of other subscriptions nothing comes twice where two orders meet.
3. What waits here is bounded by the link's window: nothing is granted before it is handed on.

Law: docs/spec/relay.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from steelyard.errors import BadMessage, Refusal, SteelyardError, Unavailable
from steelyard.gateway.attempt import Attempt
from steelyard.gateway.relay_heads import Head, HeadLine, head_of_block, read_head, require_linked
from steelyard.gateway.relay_shapes import read_answered
from steelyard.services.rpc.messages import RpcItem

API = "rpc.subscribe"
ORDER_MESSAGES = 256
ORDER_S = 240
"""What one order of a subscription is bounded by, and never more than 4/5 of the gateway's deadline."""

LEAST_MESSAGES = 16
TOO_DEAR = frozenset({"order_too_large", "budget_exceeded"})
"""Down to so many messages an order is halved that is above what a provider's stake or the key's budget bears."""

DUE_SHARE = 0.875
"""At which part of either bound the next order is opened."""

REPLAY_S = 30.0
PAUSES_S = (0.0, 0.1, 0.3, 1.0, 2.0)
FILL_PAUSES_S = (0.0, 0.2, 0.5, 1.0)
MAX_DISCREDITED = 8
SILENT_BLOCKS = 8
SHORTEST_SILENCE_S = 15.0
RECENT = 256

Buy = Callable[[bytes, frozenset[bytes]], Awaitable[Attempt]]
"""Opens an order for a subscription, not at the named providers, and returns it once its provider took it."""

Ask = Callable[[bytes], Awaitable[bytes]]
"""Returns the answer to one JSON-RPC body."""


class _LogKey(msgspec.Struct):
    blockHash: str
    logIndex: str
    removed: bool = False


_decode_log = msgspec.json.Decoder(_LogKey).decode


@dataclass(slots=True, eq=False)
class _Source:
    """One order of at most so many `messages`; `known` is what was sent before it, `is_new` while nothing of it was
    sent, `rest_until_s` while no order is opened beside it.
    """

    attempt: Attempt
    since_s: float
    messages: int
    known: frozenset[bytes] = frozenset()
    count: int = 0
    is_new: bool = True
    rest_until_s: float = 0.0


@dataclass(slots=True, eq=False)
class Feed:
    """One subscription of one client.

    Attributes:
        item: the client's request. buy, ask: how orders are opened, and how blocks are fetched.
        show: takes each result, in order. check_key: raises once the key isn't good any more.
        hear: told of each head's provider and height. clock: monotonic seconds. order_s: the longest order.
        silence_s: after which a provider of heads is doubted.
    """

    item: RpcItem
    buy: Buy
    ask: Ask
    show: Callable[[bytes], None]
    check_key: Callable[[], Awaitable[object]]
    clock: Callable[[], float]
    order_s: int
    silence_s: float
    is_heads: bool
    hear: Callable[[bytes, int], None] = lambda provider, height: None
    line: HeadLine = field(default_factory=HeadLine)
    _source: _Source | None = None
    _next: asyncio.Task[_Source] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT))
    _discredited: set[bytes] = field(default_factory=set)
    _lies: int = 0
    _heard_s: float = 0.0
    _messages: int = field(default_factory=lambda: ORDER_MESSAGES)

    async def open(self) -> None:
        """Return once a provider took the subscription; raises a Refusal."""
        self._source = await self._order()
        self._heard_s = self.clock()

    async def run(self) -> None:
        """Hand on what comes until it is cancelled; raises a SteelyardError once nobody serves it any more."""
        try:
            while True:
                source = self._source
                if source is None or (source.attempt.is_over and not source.attempt.out):
                    await self._replace()
                    continue
                self._wake.clear()
                if source.attempt.out:
                    await self._drain(source)
                    continue
                if self._next is not None and self._next.done():
                    self._switch(source)
                    continue
                if self._next is None and self._due_in_s(source) <= 0:
                    self._next = asyncio.create_task(self._order(), name="relay-renewal")
                    self._next.add_done_callback(lambda _: self._wake.set())
                await self._wait(source)
        finally:
            self.close()

    def close(self) -> None:
        """Stop all orders; what was received is settled."""
        if self._source is not None:
            _stop(self._source)
        if self._next is not None:
            task, self._next = self._next, None
            task.add_done_callback(_stop_result)
            task.cancel()

    async def _order(self) -> _Source:
        while True:
            messages = self._messages
            try:
                attempt = await self.buy(self._body(messages), frozenset(self._discredited))
            except Refusal as error:
                if error.code not in TOO_DEAR or messages // 2 < LEAST_MESSAGES:
                    raise
                self._messages = min(self._messages, messages // 2)
                continue
            attempt.waiter = self._wake.set
            return _Source(attempt, self.clock(), messages)

    def _body(self, messages: int) -> bytes:
        return b'{"jsonrpc":"2.0","id":1,"method":"%s"%s,"max_messages":%d,"max_s":%d}' % (
            self.item.method.encode(),
            b',"params":' + self.item.params_raw if self.item.params_raw else b"",
            messages,
            self.order_s,
        )

    async def _replace(self) -> None:
        """Open another order after one that is over; raises what the last try ended in."""
        self._source = None
        waiting, self._next = self._next, None
        first_s, tries = self.clock(), 0
        while True:
            try:
                self._go_on_with(await (waiting or self._order()))
                break
            except asyncio.CancelledError:
                if waiting is not None:
                    waiting.add_done_callback(_stop_result)
                raise
            except Refusal as error:
                if not error.is_retryable or self.clock() - first_s >= REPLAY_S:
                    raise
            waiting = None
            await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1
            if tries >= len(PAUSES_S):
                self._discredited.clear()  # there is nobody else: they may have been right
        await self._catch_up()

    def _go_on_with(self, source: _Source) -> None:
        source.known = frozenset(self._recent)
        self._source = source
        self._heard_s = self.clock()

    def _switch(self, source: _Source) -> None:
        """Go on with the order that was opened beside this one."""
        task, self._next = self._next, None
        if task is None or task.cancelled() or task.exception() is not None:
            source.rest_until_s = self.clock() + PAUSES_S[-1]  # it goes on while it can, then it is replaced
            return
        self._go_on_with(task.result())
        _stop(source)

    def _due_in_s(self, source: _Source) -> float:
        now_s = self.clock()
        if now_s < source.rest_until_s:
            return source.rest_until_s - now_s
        if source.count >= source.messages * DUE_SHARE:
            return 0.0
        return source.since_s + self.order_s * DUE_SHARE - now_s

    async def _wait(self, source: _Source) -> None:
        waits_s = [] if self._next is not None else [self._due_in_s(source)]
        if self.is_heads:
            waits_s.append(self._heard_s + self.silence_s - self.clock())
        try:
            async with asyncio.timeout(max(0.0, min(waits_s)) if waits_s else None):
                await self._wake.wait()
        except TimeoutError:
            if self.is_heads and self.clock() - self._heard_s >= self.silence_s:
                self._heard_s = self.clock()
                if await self._catch_up():
                    self._discredit(source)

    async def _drain(self, source: _Source) -> None:
        attempt = source.attempt
        out, attempt.out = attempt.out, []
        pieces, attempt.pieces = attempt.pieces, 0
        contents = [content for content in out if content]
        if contents:
            await self.check_key()
            self._heard_s = self.clock()
        for content in contents:
            source.count += 1
            try:
                await self._show(content, source)
            except BadMessage:
                self._discredit(source)
                return
            attempt.is_shown = True
        if pieces and not attempt.is_over:
            attempt.seller.link.grant_pieces(attempt.job.call_id, pieces)

    async def _show(self, content: bytes, source: _Source) -> None:
        if self.is_heads:
            head = read_head(content)
            self.hear(source.attempt.seller.link.provider, head.number)
            if await self._show_head(head, is_new_source=source.is_new):
                source.is_new = False
            return
        key = _key_of(content)
        if key in source.known:
            return
        self._recent.append(key)
        self.show(content)

    async def _show_head(self, head: Head, *, is_new_source: bool) -> bool:
        """Send a head and what is missing before it; say whether there was anything to send."""
        if self.line.is_sent(head):
            return False
        chain = [head]
        while (span := self.line.missing(chain, is_new_source=is_new_source)) is not None:
            chain = [*await self._fetch(*span), *chain]
            require_linked(chain)
        for one in chain:
            if not self.line.is_sent(one):
                self.line.note(one)
                self.show(one.raw)
        return True

    async def _fetch(self, first: int, last: int) -> list[Head]:
        """Return the heads of a span of blocks; raises BadMessage if nobody has them."""
        body = b"[%s]" % b",".join(_block_call(hex(number).encode()) for number in range(first, last + 1))
        for pause_s in FILL_PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                answered = read_answered(await self.ask(body), is_batch=True)
                return [head_of_block(bytes(one.result)) for one in answered]
            except (BadMessage, Unavailable):
                continue
        raise BadMessage(f"blocks {first} to {last} can't be had from anybody")

    async def _catch_up(self) -> bool:
        """Send what came while nobody was listening; say whether there was anything."""
        if not self.is_heads or self.line.last is None:
            return False
        try:
            (newest,) = read_answered(await self.ask(b"[%s]" % _block_call(b"latest")), is_batch=True)
            return await self._show_head(head_of_block(bytes(newest.result)), is_new_source=True)
        except (BadMessage, Unavailable):
            return False  # the next head that comes shows the gap again

    def _discredit(self, source: _Source) -> None:
        """Pass over a provider that lies or is stale, and go on elsewhere; raises Unavailable after too many."""
        self._discredited.add(source.attempt.seller.link.provider)
        self._lies += 1
        _stop(source)
        self._source = None
        if self._lies > MAX_DISCREDITED:
            raise Unavailable(
                f"{self._lies} times a provider's heads could not be confirmed: subscribe again",
                code="unconfirmed_heads",
            )


def _stop(source: _Source) -> None:
    source.attempt.waiter = None
    source.attempt.cancel()


def _stop_result(task: asyncio.Task[_Source]) -> None:
    if not task.cancelled() and task.exception() is None:
        _stop(task.result())


def _block_call(block: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["%s",false]}' % block


def _key_of(content: bytes) -> bytes:
    """What makes a result the same from two providers: a log by its place, anything else by its bytes."""
    try:
        log = _decode_log(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return sha256(content).digest()
    return f"{log.blockHash} {log.logIndex} {log.removed}".encode()


def why_lost(error: SteelyardError) -> str:
    """Return what a close frame says of a subscription that nobody serves; it holds at most 123 bytes."""
    return f"the subscription was lost ({error.code}): connect and subscribe again"[:120]
