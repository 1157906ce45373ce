"""Any OpenAI-compatible server as an engine: against a real HTTP server on this machine that behaves well, badly, or
dies.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from tests.llama_world import fetch_test_model
from tests.service_world import SAMPLES, body, collect, ignore

from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import EngineInfo
from steelyard.engines.upstream import UpstreamEngine
from steelyard.errors import BadRequest, ConfigError, Unavailable
from steelyard.services.chat import ChatService
from steelyard.services.embeddings import EmbeddingsService

CHAT = SAMPLES["chat.completions"]
INFO = EngineInfo(
    engine="openai",
    engine_version="",
    model="far-model",
    context_tokens=1000,
    parameters=("logprobs", "seed"),
    embedding_dimension=2,
    embedding_context_tokens=100,
)
GOOD = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Hel"}, "logprobs": {"content": [{"token": "Hel", "logprob": -0.1}]}}]},
    {"choices": [{"delta": {"content": "lo 🦄"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
]
Handler = Callable[[web.Request], Any]


def stream_of(events: list[dict[str, Any]], *, is_done: bool = True, is_cut: bool = False) -> Handler:
    """A handler that streams these events, and may leave out the end or cut the connection."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if is_cut:
            assert request.transport is not None
            request.transport.abort()
            return response
        if is_done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return handle


@asynccontextmanager
async def upstream(handler: Handler, path: str = "/v1/chat/completions") -> AsyncIterator[UpstreamEngine]:
    """A server with one handler, and an engine that talks to it."""
    application = web.Application()

    async def models(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer k":
            return web.json_response({"error": {"message": "no"}}, status=401)
        return web.json_response({"data": [{"id": "far-model"}]})

    application.router.add_post(path, handler)
    application.router.add_get("/v1/models", models)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine = UpstreamEngine(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", INFO, api_key="k")
    try:
        yield engine
    finally:
        await engine.aclose()
        await runner.cleanup()


async def ask(engine: UpstreamEngine, **fields: Any) -> Any:
    """Answer the sample conversation through the chat kind."""
    service = ChatService(ChatService.describe("far", engine.info), engine=engine)
    return await collect(service, service.parse("chat.completions", body(CHAT, **fields)), 5)


def test_answer_is_relayed_with_the_upstreams_usage() -> None:
    """Text, usage and finish reason arrive; the upstream was asked for its model, a stream, usage and the order's
    seed.
    """
    seen: list[Any] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json(), request.headers["Authorization"]))
        return await stream_of(GOOD)(request)

    async def run() -> Any:
        async with upstream(handle) as engine:
            return await ask(engine, max_tokens=20)

    result, chunks = asyncio.run(run())
    assert (result.content.decode(), result.units_in, result.units_out) == ("Hello 🦄", 9, 2)
    assert len(chunks) == 3
    sent, key = seen[0]
    assert key == "Bearer k"
    assert (sent["model"], sent["stream"], sent["stream_options"]) == ("far-model", True, {"include_usage": True})
    assert (sent["seed"], sent["max_tokens"], sent["logprobs"]) == (5, 20, True)


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (stream_of(GOOD, is_done=False), "cut before its end"),
        (stream_of(GOOD[:3], is_cut=True), "the upstream failed"),
        (stream_of(GOOD[:3]), "without a finish reason"),
        (stream_of(GOOD[:4]), "without a usage"),
        (stream_of([*GOOD[:2], {"error": {"message": "out of memory"}}]), "out of memory"),
        (stream_of([*GOOD[:2], GOOD[1], GOOD[1], *GOOD[2:]]), "log-probabilities of 3 tokens, its usage has 2"),
        (stream_of([{"choices": "nonsense"}]), "can't be read"),
        (stream_of([{"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 0}}]), "can't be read"),
    ],
)
def test_stream_that_breaks_is_an_error_and_never_an_answer(handler: Handler, reason: str) -> None:
    """Cut, unfinished, failed or nonsense: the call ends in an error that says which."""

    async def run() -> None:
        async with upstream(handler) as engine:
            with pytest.raises(Unavailable, match=reason):
                await ask(engine)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadRequest), (422, BadRequest), *((status, Unavailable) for status in (302, 401, 404, 429, 500))],
)
def test_refusal_of_the_upstream_says_whose_fault_it_is(status: int, error: type[Exception]) -> None:
    """What the caller can mend stays a 400; the provider's own troubles are a 503; redirects are not followed."""

    async def handle(request: web.Request) -> web.Response:
        headers = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
        return web.json_response({"error": {"message": "because", "param": "stop"}}, status=status, headers=headers)

    async def run() -> None:
        async with upstream(handle) as engine:
            with pytest.raises(error, match="because"):
                await ask(engine)

    asyncio.run(run())


def test_upstream_that_is_gone_or_refuses_stops_the_start() -> None:
    """A wrong URL, key or model is one clear line before anything is sold."""

    async def run() -> None:
        async with upstream(stream_of(GOOD)) as engine:
            await engine.prepare(ignore)
            url = engine._base_url
            other = EngineInfo(engine="openai", engine_version="", model="other")
            for info, key, words in ((INFO, "bad", "refuses the key"), (other, "k", "has no model 'other'")):
                wrong = UpstreamEngine(url, info, api_key=key)
                with pytest.raises(ConfigError, match=words):
                    await wrong.prepare(ignore)
                await wrong.aclose()
        gone = UpstreamEngine(url, INFO)
        with pytest.raises(ConfigError, match="does not answer"):
            await gone.prepare(ignore)
        await gone.aclose()

    asyncio.run(run())
    with pytest.raises(ConfigError, match="write http"):
        UpstreamEngine("ftp://x", INFO)


def test_embeddings_become_unit_vectors_whatever_their_encoding() -> None:
    """Numbers or base64, any order, any length: float32 of unit length in the order of the texts."""

    async def handle(request: web.Request) -> web.Response:
        packed = base64.b64encode(struct.pack("<2f", 0, 5)).decode()
        data = [{"index": 1, "embedding": packed}, {"index": 0, "embedding": [3.0, 4.0]}]
        return web.json_response({"data": data, "usage": {"prompt_tokens": 6}})

    async def run() -> Any:
        async with upstream(handle, "/v1/embeddings") as engine:
            service = EmbeddingsService(EmbeddingsService.describe("far", engine.info), engine=engine)
            await service.prepare(ignore)
            return await collect(service, service.parse("embeddings", body(SAMPLES["embeddings"])))

    result, _ = asyncio.run(run())
    assert struct.unpack("<4f", result.content) == pytest.approx((0.6, 0.8, 0.0, 1.0))
    assert result.units_in == 6


def test_llama_server_itself_is_such_an_upstream() -> None:
    """The stock llama.cpp HTTP server, with its real model, answers through the relay."""

    async def run() -> Any:
        options = LlamaOptions(slots=1, context_tokens=512)
        local = LlamaEngine(await fetch_test_model(), options=options)
        await local.prepare(ignore)
        server = local._server()
        info = EngineInfo(
            engine="llama-server", engine_version="", model="any", context_tokens=512, parameters=("seed",)
        )
        engine = UpstreamEngine(server.base_url + "/v1", info, api_key=server._api_key)
        try:
            for _ in range(3):  # it closes its connection after each stream, and the next request may meet that
                answer = await ask(engine, max_tokens=6, temperature=0)
            return answer
        finally:
            await engine.aclose()
            await local.aclose()

    result, chunks = asyncio.run(run())
    assert 1 <= result.units_out <= 6
    assert result.units_in > 10
    assert len(chunks) > 2
