"""Who replays an answer: this machine's own engine, or, where it has none, two providers that sell a replay.

1. An own replay is trusted. A bought one is another provider's word: two of them, neither the accused's, have to agree,
   and only what both say counts (`verification.betting.least_evidence`).
2. Replays are bought over an ordinary gateway as by any client; the sellers can't tell whose answer it is.
3. What can't be replayed is this validator's own lack.

Law: docs/spec/validator.md, section 4.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from steelyard.errors import BadMessage, BadRequest, ConfigError, Unavailable
from steelyard.protocol.messages import Order
from steelyard.services.port import Context, Request, Result, Service
from steelyard.validator.gateway_client import ShownCall
from steelyard.verification.verdict import Lack

MAX_PURCHASES = 6
"""So many replays are bought for one answer, at most, until two sellers other than the accused have given theirs."""

BoughtAnswer = tuple[bytes, bytes]
"""A provider's account, and the content of its answer."""

BuyReplay = Callable[[bytes], Awaitable[BoughtAnswer]]
"""Sends the body of `POST /v1/replays` as an ordinary client; raises Unavailable."""


class CantReplay(Exception):
    """This validator lacks something; the call is not judged."""

    def __init__(self, lack: Lack) -> None:
        super().__init__(lack.value)
        self.lack = lack


class Replayed(msgspec.Struct, frozen=True):
    """Replays of one answer: an own one, or two bought ones of different sellers. `engine` made them."""

    blobs: tuple[bytes, ...]
    engine: str


class Replayer(Protocol):
    """Replays the answers of one service; `engine` is its name in calibrations, e.g. ``llama.cpp 1.2``."""

    async def replay(self, request: Request, call: ShownCall, result: Result, claimed: bytes, order: Order) -> Replayed:
        """Return the replays of an answer.

        Raises:
            BadMessage: the claimed evidence breaks a rule that honest evidence keeps; `code` names it.
            CantReplay: nobody can.
        """
        ...


class OwnReplayer:
    """Replays on this machine; `service` is prepared, and bound to the manifest of the accused's offer."""

    def __init__(self, service: Service, engine: str) -> None:
        self._service = service
        self._engine = engine

    async def replay(self, request: Request, call: ShownCall, result: Result, claimed: bytes, order: Order) -> Replayed:
        """See `Replayer`."""
        context = Context(order.call_id, order.sampler_seed, call.prefix)
        try:
            return Replayed((await self._service.replay(request, result, claimed, context),), self._engine)
        except (Unavailable, ConfigError, BadRequest) as error:
            raise CantReplay(Lack.MODEL) from error


class BoughtReplayer:
    """Buys replays.

    Args:
        buy: `probes.Client.buy_replay`. engine: of the sellers' manifests.
    """

    def __init__(self, buy: BuyReplay, engine: str) -> None:
        self._buy = buy
        self._engine = engine

    async def replay(self, request: Request, call: ShownCall, result: Result, claimed: bytes, order: Order) -> Replayed:
        """See `Replayer`."""
        asked = replay_body(request, call, result, claimed, order.sampler_seed)
        found: dict[bytes, bytes] = {}
        for _ in range(MAX_PURCHASES):
            try:
                seller, content = await self._buy(asked)
            except Unavailable as error:
                raise CantReplay(Lack.MODEL) from error
            if seller != order.provider:
                found[seller] = content
            if len(found) == 2:
                return Replayed(tuple(found.values()), self._engine)
        raise CantReplay(Lack.MODEL)


def replay_body(request: Request, call: ShownCall, result: Result, claimed: bytes, seed: int) -> bytes:
    """Return the body of `POST /v1/replays` for an answer; raises BadMessage unless the call's body is JSON."""
    try:
        original = msgspec.json.decode(call.body, type=dict)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"the call's body is no JSON object: {error}") from error
    fields: dict[str, object] = {
        "model": request.model,
        "request": original,
        "api": request.api,
        "seed": str(seed),
        "evidence": base64.b64encode(claimed).decode(),
        "content": base64.b64encode(result.content).decode(),
        "units_in": result.units_in,
        "units_out": result.units_out,
        "finish": result.finish.name.lower(),
    }
    if call.prefix:
        fields["prefix"] = base64.b64encode(call.prefix).decode()
    return msgspec.json.encode(fields)
