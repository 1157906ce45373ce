"""Embeddings of the real model: honest machines agree within the bounds, another model's vectors do not."""

from __future__ import annotations

import asyncio
import struct

import msgspec
from tests.llama_world import MODEL, fetch_test_model
from tests.service_world import body, collect, ignore

from steelyard.engines.gguf_model import facts_of
from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.services.embeddings import EmbeddingsService
from steelyard.services.port import Comparison, Context, Result

TEXTS = ["a cat", "ein Kater ß 🦄", "The quick brown fox. " * 12, "def f(x): return x + 1", "zxqv qq 123 ###", "x"]


async def serve(texts: list[str], threads: int) -> tuple[EmbeddingsService, Result, bytes]:
    """Vectors by an engine with so many threads: as a result, and as a replay."""
    options = LlamaOptions(slots=1, context_tokens=512, batch_tokens=64, threads=threads)
    engine = LlamaEngine(await fetch_test_model(), facts=facts_of(MODEL), options=options)
    try:
        await engine.prepare(ignore)
        service = EmbeddingsService(EmbeddingsService.describe("vectors", engine.info), engine=engine)
        request = service.parse("embeddings", body({"model": "vectors", "input": texts}))
        result, _ = await collect(service, request)
        return service, result, await service.replay(request, result, b"", Context())
    finally:
        await engine.aclose()


def test_honest_machine_on_other_threads_is_within_the_bounds() -> None:
    """Each vector of one thread matches that of two, and the bill is the same."""

    async def run() -> Comparison:
        _, result, _ = await serve(TEXTS, 1)
        service, _, replayed = await serve(TEXTS, 2)
        return service.compare(result, b"", replayed)

    found = asyncio.run(run())
    assert found.positions == len(TEXTS)
    assert all(score.is_match for score in found.scores), found


def test_vectors_of_other_texts_or_coarser_numbers_are_out_of_bounds() -> None:
    """The nearest other text, and numbers kept to 8 bits, are no match; so nobody sells those in silence."""

    async def run() -> tuple[Comparison, Comparison]:
        service, result, replayed = await serve(TEXTS, 1)
        size = len(result.content) // len(TEXTS)
        turned = msgspec.structs.replace(result, content=result.content[size:] + result.content[:size])
        layout = f"<{len(result.content) // 4}f"
        numbers = struct.unpack(layout, result.content)
        coarse = struct.pack(layout, *(round(number * 127) / 127 for number in numbers))
        rounded = msgspec.structs.replace(result, content=coarse)
        return service.compare(turned, b"", replayed), service.compare(rounded, b"", replayed)

    turned, rounded = asyncio.run(run())
    assert not any(score.is_match for score in turned.scores), turned
    assert not any(score.is_match for score in rounded.scores), rounded
