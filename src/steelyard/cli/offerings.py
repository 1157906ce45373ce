"""What a development network sells: SmolLM2-135M-Instruct for chat and embeddings, or `echo` for measuring.

Prices are nano per 1,000,000 units: half a YARD for a million tokens in, one and a half for a million out.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.cli.genesis import ServicePlan
from steelyard.cli.settings import Settings
from steelyard.engines.gguf_model import facts_of
from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import EngineInfo
from steelyard.protocol.messages import Grade
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import encode_manifest
from steelyard.weights.cache import WeightCache
from steelyard.weights.catalogue import find_model
from steelyard.weights.fetch import fetch_weights

MODEL = "smollm2-135m"
CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "smollm2-135m-embeddings"
CONTEXT_TOKENS = 2048
PRICE_IN, PRICE_OUT = 500_000_000, 1_500_000_000

Progress = Callable[[str, int, int], None]


async def plan_smollm2(settings: Settings, progress: Progress) -> list[ServicePlan]:
    """Return the model's two services, its weights fetched and its manifests made from the engine itself.

    Both carry the grade that their kind allows: the node keeps the evidence that it takes.

    Raises:
        ConfigError: the weights can't be fetched or proven, or the engine isn't installed.
    """
    model = find_model(MODEL)
    fetched = await fetch_weights(
        model.url,
        WeightCache(settings.weights_folder),
        progress,
        sha256=model.sha256,
        size_bytes=model.size_bytes,
        download_bytes=model.download_bytes,
    )
    options = LlamaOptions(slots=1, threads=1, context_tokens=CONTEXT_TOKENS)
    engine = LlamaEngine(fetched.path, facts=facts_of(model), options=options)
    try:
        await engine.prepare(progress)
        info = engine.info
    finally:
        await engine.aclose()
    return [_plan(name, kind, info) for name, kind in ((CHAT, "chat"), (EMBEDDINGS, "embeddings"))]


def _plan(name: str, kind: str, info: EngineInfo) -> ServicePlan:
    found = installed_services().find(kind)
    manifest = found.describe(name, info)
    return ServicePlan(
        name=name,
        kind=kind,
        manifest=encode_manifest(manifest),
        grade=int(found(manifest).grade),
        price_in=PRICE_IN,
        price_out=PRICE_OUT,
    )


def plan_echo(name: str = "echo") -> ServicePlan:
    """Return the `echo` service, which needs no engine; its answers can be checked exactly."""
    manifest = installed_services().find("echo").describe(name)
    return ServicePlan(
        name=name,
        kind="echo",
        manifest=encode_manifest(manifest),
        grade=int(Grade.EXACT),
        price_in=1_000_000,
        price_out=1_000_000,
    )
