"""The engines of a node, opened as its services need them: one for each weight file or upstream, shared by the kinds.

1. Weights are what the manifest names, unless the settings name others; either way they must hash to the manifest's.
2. The manifest's `engine` says what runs them: `transformers`, or else llama.cpp.
3. A context is as long as the longest that a manifest promises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from steelyard.cli.settings import NodeSection, ServiceEntry
from steelyard.engines.gguf_model import ModelFacts, facts_of
from steelyard.engines.llama import WAITING_PER_SLOT, LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import Engine, EngineInfo, StepEngine
from steelyard.engines.transformers_engine import TransformersEngine, TransformersOptions
from steelyard.engines.transformers_model import ENGINE as TORCH
from steelyard.engines.upstream import UpstreamEngine
from steelyard.errors import ConfigError
from steelyard.services.manifest import Manifest
from steelyard.weights.cache import WeightCache
from steelyard.weights.catalogue import KNOWN_MODELS
from steelyard.weights.fetch import FetchedWeights, fetch_weights

DEFAULT_CONTEXT_TOKENS = 2048
_log = structlog.get_logger("steelyard.cli")


@dataclass(frozen=True, slots=True)
class Ordered:
    """A service that the settings want sold, and the manifest that the chain registered for it."""

    entry: ServiceEntry
    manifest: Manifest


class Engines:
    """Opens engines on demand and closes them all; call `aclose`."""

    def __init__(self, section: NodeSection, cache: WeightCache, ordered: Sequence[Ordered]) -> None:
        self._section = section
        self._cache = cache
        self._opened: dict[str, Engine] = {}
        self._contexts: dict[str, int] = {}
        for item in ordered:
            if item.manifest.kind == "chat":
                source = _source(item)
                self._contexts[source] = max(self._contexts.get(source, 0), item.manifest.context_tokens)

    async def open(self, item: Ordered) -> Engine:
        """Return the engine of a service, prepared.

        Raises:
            ConfigError: no weights are named, or they can't be fetched, proven or loaded.
        """
        source = _source(item)
        if source not in self._opened:
            engine = self._upstream(item) if item.entry.base_url else await self._open_weights(item, source)
            self._opened[source] = engine
            await engine.prepare(_report)
        return self._opened[source]

    def max_calls(self, item: Ordered) -> int:
        """Return how many calls an engine here runs and keeps waiting at once; zero for an upstream, which says so."""
        return 0 if item.entry.base_url else self._section.engine_slots * (1 + WAITING_PER_SLOT)

    async def aclose(self) -> None:
        """Close every engine."""
        for engine in self._opened.values():
            await engine.aclose()
        self._opened.clear()

    def _upstream(self, item: Ordered) -> Engine:
        entry, manifest = item.entry, item.manifest
        info = EngineInfo(
            engine=manifest.engine,
            engine_version=manifest.engine_version,
            model=entry.upstream_model or manifest.name,
            quantisation=manifest.quantisation,
            tokenizer_hash=manifest.tokenizer_hash,
            template_hash=manifest.template_hash,
            weights_sha256=manifest.weights.sha256 if manifest.weights else "",
            context_tokens=manifest.context_tokens,
            embedding_context_tokens=manifest.context_tokens,
            embedding_dimension=manifest.embedding_dimension,
            parameters=manifest.parameters,
        )
        return UpstreamEngine(entry.base_url, info, api_key=entry.api_key.get_secret_value())

    async def _open_weights(self, item: Ordered, source: str) -> Engine:
        manifest, section = item.manifest, self._section
        weights = manifest.weights
        url = item.entry.weights or (weights.url if weights else "")
        if not url:
            raise ConfigError(f"the service {manifest.name!r} names no weights: set weights or base_url for it")
        fetched = await fetch_weights(
            url,
            self._cache,
            _report,
            sha256=weights.sha256 if weights else "",
            size_bytes=weights.size_bytes if weights else 0,
        )
        return build_engine(
            manifest.engine,
            fetched.path,
            find_facts(url, fetched.sha256),
            slots=section.engine_slots,
            threads=section.engine_threads,
            context_tokens=self._contexts.get(source) or section.engine_context_tokens or DEFAULT_CONTEXT_TOKENS,
        )


def find_facts(url: str, sha256: str) -> ModelFacts:
    """Return what is known of a weight file beside itself: the catalogue's facts by its hash, else where it is from."""
    known = [model for model in KNOWN_MODELS.values() if model.sha256 == sha256]
    return facts_of(known[0]) if known else ModelFacts(weights_url=url, weights_sha256=sha256)


def build_engine(
    name: str, path: Path, facts: ModelFacts, *, slots: int, threads: int, context_tokens: int
) -> StepEngine:
    """Return the engine that a manifest names, over a proven weight file; nothing is loaded yet."""
    if name == TORCH:
        torch_options = TransformersOptions(slots=slots, threads=threads, context_tokens=context_tokens)
        return TransformersEngine(path, facts=facts, options=torch_options)
    options = LlamaOptions(slots=slots, threads=threads, context_tokens=context_tokens)
    return LlamaEngine(path, facts=facts, options=options)


async def load_engine_info(
    name: str, url: str, fetched: FetchedWeights, context_tokens: int, progress: Callable[[str, int, int], None]
) -> EngineInfo:
    """Return what the engine that a manifest names says of a proven weight file; the model is loaded only to ask."""
    facts = find_facts(url, fetched.sha256)
    engine = build_engine(name, fetched.path, facts, slots=1, threads=1, context_tokens=context_tokens)
    try:
        await engine.prepare(progress)
        return engine.info
    finally:
        await engine.aclose()


def _source(item: Ordered) -> str:
    if item.entry.base_url:
        return f"{item.entry.base_url} {item.entry.upstream_model}"
    return item.manifest.weights.sha256 if item.manifest.weights else item.entry.weights


def _report(what: str, done: int, total: int) -> None:
    if done == total:
        _log.info("node_prepared", what=what, size_bytes=total)
