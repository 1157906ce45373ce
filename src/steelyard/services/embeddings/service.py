"""`EmbeddingsService`: one model's vectors, float32 little-endian, one per input in its order.

1. Its unit is the token, of input alone; output costs nothing.
2. Content is the vectors joined: `count` of equal length, whatever the chunks. A chunk ends between two vectors.
3. There is no evidence beside the content: whoever checks has the vectors from the gateway and computes its own.

Law: docs/spec/kinds/embeddings.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from steelyard.errors import BadMessage, BadRequest, ConfigError, Unavailable
from steelyard.services.bodies import EmbeddingsBody
from steelyard.services.body_reader import BodyReader
from steelyard.services.embeddings.distance import REPLAY_TAG, compare_vectors, refuse_vectors
from steelyard.services.engine_match import check_engine, describe_engine
from steelyard.services.manifest import Manifest
from steelyard.services.port import (
    Check,
    Chunk,
    Comparison,
    Context,
    FinishReason,
    Grade,
    Progress,
    Quote,
    Request,
    Result,
)

if TYPE_CHECKING:
    from steelyard.engines.port import Engine, EngineInfo

API = "embeddings"
BATCH = 8
"""Texts per call of the engine: where a run can be cancelled."""

EXTRA_TOKENS = 2
"""The most tokens that a model puts around a text (begin and end)."""


class EmbeddingsService:
    """One `embeddings` service."""

    kind = "embeddings"
    unit = "token"
    check: Check = "statistical"
    apis = frozenset({API})
    needs_engine = True

    def __init__(
        self, manifest: Manifest, *, engine: Engine | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        if options:
            raise ConfigError(f"embeddings has no option {sorted(options)[0]!r}; it has none")
        self._manifest = manifest
        self._engine = engine
        self._reader = BodyReader(EmbeddingsBody, manifest)

    @staticmethod
    def describe(name: str, info: EngineInfo | None = None, *, owned_by: str = "steelyard") -> Manifest:
        if info is None or not info.embedding_dimension:
            raise ConfigError(f"the embeddings service {name!r} needs an engine that embeds to be described")
        return describe_engine(
            name,
            "embeddings",
            info,
            owned_by=owned_by,
            parameters=("dimensions",),
            context_tokens=info.embedding_context_tokens,
            embedding_dimension=info.embedding_dimension,
        )

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def grade(self) -> Grade:
        return Grade.UNCHECKED if self._manifest.weights is None else Grade.STATISTICAL

    def parse(self, api: str, body: bytes) -> Request:
        manifest = self._manifest
        if api != API:
            raise BadRequest(f"{manifest.name!r} answers {API}, not {api}", param="model")
        fields: EmbeddingsBody = self._reader.read(body)
        if fields.dimensions is not None and fields.dimensions != manifest.embedding_dimension:
            raise BadRequest(
                f"`dimensions` is {fields.dimensions}, this model's vectors have {manifest.embedding_dimension}: "
                "leave it out",
                param="dimensions",
            )
        texts = [fields.input] if isinstance(fields.input, str) else fields.input
        sizes = [len(text.encode()) for text in texts]
        longest = manifest.longest_token_bytes * manifest.context_tokens
        if longest and max(sizes) > longest:
            raise BadRequest(
                f"an input has {max(sizes)} bytes, more than fit into {manifest.context_tokens} tokens: split it",
                code="context_length_exceeded",
                param="input",
            )
        return Request(
            api=API,
            model=fields.model,
            count=len(texts),
            encoding=fields.encoding_format or "float",
            input_bytes=sum(sizes),
            payload=tuple(texts),
        )

    def quote(self, request: Request) -> Quote:
        limit = self._manifest.context_tokens
        sizes = (len(text.encode()) + EXTRA_TOKENS for text in request.payload)
        return Quote(sum(min(size, limit) for size in sizes), 0)

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        engine, texts = self._running(), request.payload
        size, left = self._manifest.embedding_dimension * 4, self.quote(request).max_units_in
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            made = await engine.embed(batch)
            if len(made.vectors) != len(batch) or any(len(vector) != size for vector in made.vectors):
                raise Unavailable("the engine's vectors are not what the manifest promises", code="engine_failed")
            units_in = min(made.tokens, left)
            left -= units_in
            is_last = start + BATCH >= len(texts)
            yield Chunk(b"".join(made.vectors), units_in, 0, b"", FinishReason.STOP if is_last else None)

    def evidence(self, request: Request, result: Result) -> bytes:
        return b""

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        content, units_in = bytearray(), 0
        async for chunk in self.run(request, context):
            content += chunk.content
            units_in += chunk.units_in
        is_cut = result.finish >= FinishReason.CANCELLED
        if result.units_out or not (result.units_in <= units_in if is_cut else result.units_in == units_in):
            raise BadMessage(
                f"{result.units_in} + {result.units_out} tokens were billed, the inputs have {units_in}",
                code="evidence_bill",
            )
        if result.finish is not FinishReason.STOP and not is_cut:
            raise BadMessage(f"vectors end with STOP, the answer says {result.finish.name}", code="evidence_finish")
        return REPLAY_TAG + bytes(content)

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        if claimed:
            return refuse_vectors(f"embeddings have no evidence, {len(claimed)} bytes are claimed")
        return compare_vectors(result, replayed, self._manifest.embedding_dimension)

    async def prepare(self, progress: Progress) -> None:
        if self._engine is None:
            raise ConfigError(f"the embeddings service {self._manifest.name!r} needs an engine to run")
        await self._engine.prepare(progress)
        info = self._engine.info
        check_engine(self._manifest, info, info.embedding_context_tokens)
        if info.embedding_dimension != self._manifest.embedding_dimension:
            raise ConfigError(
                f"{self._manifest.name!r} promises vectors of {self._manifest.embedding_dimension}, the engine makes "
                f"{info.embedding_dimension}"
            )

    async def aclose(self) -> None:
        return None

    def _running(self) -> Engine:
        if self._engine is None:
            raise ConfigError(f"the embeddings service {self._manifest.name!r} has no engine on this machine")
        return self._engine
