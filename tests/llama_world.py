"""The real SmolLM2-135M for tests: fetched once into the repository's own cache, opened in half a second."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.service_world import ignore

from steelyard.engines.gguf_model import facts_of
from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.weights.cache import WeightCache
from steelyard.weights.catalogue import find_model
from steelyard.weights.fetch import fetch_weights

MODEL = find_model("smollm2-135m")
CACHE = Path(os.environ.get("STEELYARD_TEST_MODELS", str(Path(__file__).parents[1] / ".steelyard" / "test-models")))


async def fetch_test_model() -> Path:
    """Return the proven weight file, fetching it the first time."""
    fetched = await fetch_weights(
        MODEL.url,
        WeightCache(CACHE),
        ignore,
        sha256=MODEL.sha256,
        size_bytes=MODEL.size_bytes,
        download_bytes=MODEL.download_bytes,
    )
    return fetched.path


@asynccontextmanager
async def opened(slots: int = 2, context_tokens: int = 512) -> AsyncIterator[LlamaEngine]:
    """Open the engine with a small context, prepared."""
    options = LlamaOptions(slots=slots, context_tokens=context_tokens, batch_tokens=32)
    engine = LlamaEngine(await fetch_test_model(), facts=facts_of(MODEL), options=options)
    try:
        await engine.prepare(ignore)
        yield engine
    finally:
        await engine.aclose()
