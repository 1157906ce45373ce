"""Chat and embeddings on the real SmolLM2: the whole port, and what a user sees."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.llama_world import opened
from tests.service_world import SAMPLES, body, collect, ignore, sample_bodies

from steelyard.errors import BadRequest
from steelyard.services.chat import ChatService
from steelyard.services.conformance import find_violations
from steelyard.services.discovery import installed_services
from steelyard.services.port import Context, FinishReason, Manifest, Result

KINDS = {name: kind for name, kind in installed_services().kinds.items() if kind.needs_engine}
SEA = {"model": "m", "messages": [{"role": "user", "content": "Write a strange poem about the sea."}]}
ASK = {"model": "m", "messages": [{"role": "user", "content": "Answer with some emoji: 🦄🌈"}]}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_kind_on_the_real_model_keeps_to_the_port(name: str) -> None:
    """The conformance suite that runs every kind runs on the real model as well."""
    kind = KINDS[name]
    limit = {} if "embeddings" in kind.apis else {"max_tokens": 4}

    async def run() -> list[str]:
        async with opened() as engine:
            return await find_violations(kind, engine, await sample_bodies(kind, engine, limit))

    assert not asyncio.run(run())


def test_chat_shows_whole_characters_and_log_probabilities() -> None:
    """Emoji that take several tokens arrive whole; each token's entry carries its bytes, and joined they are the
    answer.
    """

    async def run() -> tuple[Result, list[Any]]:
        async with opened(slots=1) as engine:
            service = ChatService(ChatService.describe("smollm2", engine.info), engine=engine)
            await service.prepare(ignore)
            fields = {"temperature": 0.8, "max_tokens": 16, "logprobs": True, "top_logprobs": 3, "stream": True}
            return await collect(service, service.parse("chat.completions", body(ASK, **fields)), 1)

    result, chunks = asyncio.run(run())
    assert any(ord(char) > 0xFFFF for char in result.content.decode())
    for chunk in chunks:
        chunk.content.decode()
    entries = [entry for c in chunks if c.detail for entry in json.loads(c.detail)["logprobs"]["content"]]
    assert len(entries) == 16
    assert bytes(b for entry in entries for b in entry["bytes"]).startswith(result.content)
    assert all(len(entry["top_logprobs"]) == 3 and entry["logprob"] <= 0 for entry in entries)


def test_chat_stops_at_a_stop_sequence_and_at_max_tokens() -> None:
    """Greedy decoding writes the same text; `stop` ends it before, `max_tokens` behind."""

    async def run() -> None:
        async with opened(slots=1) as engine:
            service = ChatService(ChatService.describe("smollm2", engine.info), engine=engine)
            await service.prepare(ignore)

            async def complete(**fields: Any) -> Result:
                request = service.parse("completions", body({"model": "m", "prompt": "One, two, three,"}, **fields))
                return (await collect(service, request))[0]

            whole = await complete(temperature=0, max_tokens=6)
            assert whole.content.decode().startswith(" four, five")
            assert (whole.finish, whole.units_out) == (FinishReason.LENGTH, 6)
            stopped = await complete(temperature=0, max_tokens=6, stop=[", fi"])
            assert (stopped.content, stopped.finish) == (b" four", FinishReason.STOP)
            with pytest.raises(BadRequest, match=r"801 tokens, .* context allow 512: shorten it"):
                await collect(service, service.parse("completions", body({"model": "m", "prompt": "a b " * 400})))

    asyncio.run(run())


def test_replay_finds_the_honest_and_the_greedy_cheat() -> None:
    """The same order replays at distance zero; an answer decoded without our sampler shows its margins."""

    async def run() -> tuple[float, float]:
        async with opened(slots=1) as engine:
            manifest: Manifest = ChatService.describe("smollm2", engine.info)
            service = ChatService(manifest, engine=engine)
            distances = []
            for temperature in (1.0, 0.0):
                asked = service.parse("chat.completions", body(SEA, temperature=temperature, max_tokens=12))
                result, _ = await collect(service, asked, 9)
                claimed = service.evidence(asked, result)
                promised = service.parse("chat.completions", body(SEA, temperature=1.0, max_tokens=12))
                replayed = await service.replay(promised, result, claimed, Context(seed=9))
                distances.append(service.compare(result, claimed, replayed).distance)
            return distances[0], distances[1]

    honest, greedy = asyncio.run(run())
    assert honest < 0.01
    assert greedy > 0.1


def test_two_kinds_share_one_engine() -> None:
    """A node that sells chat and embeddings of one model loads its engine once and hands it to both."""

    async def run() -> None:
        async with opened() as engine:
            services = [kind(kind.describe(name, engine.info), engine=engine) for name, kind in sorted(KINDS.items())]
            for service in services:
                await service.prepare(ignore)
            requests = [
                services[0].parse("chat.completions", body(ASK, max_tokens=3)),
                services[1].parse("embeddings", body(SAMPLES["embeddings"])),
            ]
            pairs = zip(services, requests, strict=True)
            (chat, _), (vectors, _) = await asyncio.gather(*(collect(service, request) for service, request in pairs))
            assert chat.units_out <= 3
            assert len(vectors.content) == 2 * 576 * 4

    asyncio.run(run())
