"""Open either engine on a weight file, by the name that recordings give it: ``llama`` or ``torch``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from steelyard.engines.gguf_model import facts_of
from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import StepEngine
from steelyard.engines.transformers_engine import TransformersEngine, TransformersOptions
from steelyard.weights.catalogue import KNOWN_MODELS

CONTEXT = 1024


@asynccontextmanager
async def opened(engine: str, path: Path, options: dict[str, int]) -> AsyncIterator[StepEngine]:
    """Open an engine on a weight file."""
    facts = facts_of(KNOWN_MODELS["smollm2-135m"])
    made: LlamaEngine | TransformersEngine
    if engine == "llama":
        made = LlamaEngine(path, facts=facts, options=LlamaOptions(context_tokens=CONTEXT, **options))
    else:
        made = TransformersEngine(path, facts=facts, options=TransformersOptions(context_tokens=CONTEXT))
    await made.prepare(lambda *_: None)
    try:
        yield made
    finally:
        await made.aclose()
