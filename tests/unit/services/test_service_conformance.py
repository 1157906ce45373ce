"""Every installed kind keeps to the port, on a little model; and the suite finds kinds that don't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.relay_world import open_node, open_weather
from tests.service_world import SAMPLES, LetterEngine, body, sample_bodies

from steelyard.services.conformance import find_violations
from steelyard.services.discovery import installed_services
from steelyard.services.echo import EchoService
from steelyard.services.port import Chunk, Comparison, Context, FinishReason, Prefix, Quote, Request, Result
from steelyard.services.rest.requests import encode_call

KINDS = installed_services().kinds
RELAYS = {"rest", "rpc"}


@pytest.mark.parametrize("name", sorted(set(KINDS) - RELAYS))
def test_installed_kind_keeps_to_the_port(name: str) -> None:
    """Pure where a gateway needs it, within its quote, whole in its chunks, free when left, checkable when done."""
    kind = KINDS[name]
    limit = {} if "embeddings" in kind.apis else {"max_tokens": 12}
    engine = LetterEngine() if kind.needs_engine else None

    async def run() -> list[str]:
        return await find_violations(kind, engine, await sample_bodies(kind, engine, limit))

    assert not asyncio.run(run())


def test_rpc_keeps_to_the_port() -> None:
    """The same of a relay, which needs a node behind it: what is pinned is replayed, what moves says that it moves."""
    bodies = {
        "rpc": b'{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["0x5",false]}',
        "rpc.subscribe": b'{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"],"max_messages":3}',
    }

    async def run() -> list[str]:
        async with open_node() as node:
            return await find_violations(KINDS["rpc"], None, bodies, name="anvil", options=node.options)

    assert not asyncio.run(run())


def test_rest_keeps_to_the_port() -> None:
    """The same of a relay of any HTTP API."""

    async def run() -> list[str]:
        async with open_weather() as url:
            return await find_violations(
                KINDS["rest"], None, {"rest": encode_call("GET", "echo")}, options={"upstream": url}
            )

    assert not asyncio.run(run())


class CutEcho(EchoService):
    """Ends without saying so."""

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().run(request, context):
            yield Chunk(chunk.content, chunk.units_in, chunk.units_out)


class GreedyEcho(EchoService):
    """Bills more than it quotes."""

    def quote(self, request: Request) -> Quote:
        return Quote(1, 1)


class HalfEcho(EchoService):
    """Cuts characters in two."""

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().run(request, context):
            yield Chunk(chunk.content[:5], chunk.units_in, 5)
            yield Chunk(chunk.content[5:], 0, len(chunk.content) - 5, finish=FinishReason.STOP)


class GullibleEcho(EchoService):
    """Believes any evidence."""

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        return Comparison(is_wellformed=True, distance=0.0, positions=1)


class StubbornEcho(EchoService):
    """Accepts anything as a request."""

    def parse(self, api: str, body: bytes) -> Request:
        return super().parse("completions", b'{"model":"m","prompt":"x"}')


class TwoTonguedEcho(EchoService):
    """Says at once what its run would not."""

    def answer_now(self, request: Request, context: Context) -> Chunk | None:
        return Chunk(b"no", request.input_bytes, 2, b"", FinishReason.STOP)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (CutEcho, "without a finish reason"),
        (GreedyEcho, "quoted were"),
        (HalfEcho, "inside a character"),
        (GullibleEcho, "counts as well formed"),
        (StubbornEcho, "parse accepts"),
        (TwoTonguedEcho, "another answer than run"),
    ],
)
def test_suite_finds_a_kind_that_breaks_the_port(kind: type[EchoService], sentence: str) -> None:
    """A suite that can't fail proves nothing: each broken echo is found, by the sentence that fits it."""
    bodies = {api: body(SAMPLES[api]) for api in kind.apis}
    assert any(sentence in violation for violation in asyncio.run(find_violations(kind, None, bodies)))


def test_kind_that_does_not_go_on_where_it_says_is_found() -> None:
    """Whoever says that it continues answers, and begins again, is no provider for a rescue."""

    class Restarts(EchoService):
        can_continue = True

        def quote_rest(self, request: Request, prefix: Prefix) -> Quote:
            return self.quote(request)

    async def run() -> list[str]:
        return await find_violations(Restarts, None, await sample_bodies(Restarts, None, {}))

    assert any("is another one" in what for what in asyncio.run(run()))
