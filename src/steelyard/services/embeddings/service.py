"""`EmbeddingsService`: one model's vectors, float32 little-endian, one per input in its order.

1. Its unit is the token, of input alone; output costs nothing.
2. Content is the vectors joined: `count` of equal length, whatever the chunks. A chunk ends between two vectors.
3. Evidence is the hash of the content: whoever checks has the vectors from the gateway and computes its own.

Law: docs/spec/kinds/embeddings.md.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from steelyard.errors import BadMessage, BadRequest, ConfigError, Unavailable
from steelyard.services.bodies import EmbeddingsBody
from steelyard.services.body_reader import BodyReader
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

_CLAIM_TAG = b"SYV1"
_REPLAY_TAG = b"SYW1"


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
        return _CLAIM_TAG + hashlib.sha256(result.content).digest()

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        if claimed != self.evidence(request, result):
            raise BadMessage("embeddings evidence is not the hash of the result")
        content, units_in = bytearray(), 0
        async for chunk in self.run(request, context):
            content += chunk.content
            units_in += chunk.units_in
        if result.finish is FinishReason.STOP and units_in != result.units_in:
            raise BadMessage(f"{result.units_in} tokens were billed, the inputs have {units_in}")
        return _REPLAY_TAG + bytes(content)

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        """The distance is the greatest of 1 - cosine over all vectors."""
        theirs, mine = result.content, replayed[len(_REPLAY_TAG) :]
        size = self._manifest.embedding_dimension * 4
        reason = ""
        if claimed != _CLAIM_TAG + hashlib.sha256(theirs).digest():
            reason = "the evidence is not the hash of the result"
        elif not size or len(theirs) != len(mine) or len(theirs) % size:
            reason = f"the result has {len(theirs)} bytes, the replay {len(mine)}"
        if reason:
            return Comparison(is_wellformed=False, distance=2.0, positions=0, reason=reason)
        layout = struct.Struct(f"<{self._manifest.embedding_dimension}f")
        gaps = [
            _cosine_gap(left, right)
            for left, right in zip(layout.iter_unpack(theirs), layout.iter_unpack(mine), strict=True)
        ]
        return Comparison(is_wellformed=True, distance=max(gaps, default=0.0), positions=len(gaps))

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


def _cosine_gap(left: tuple[float, ...], right: tuple[float, ...]) -> float:
    """1 - cosine, from 0 to 2; 2 when either has no direction (zeros, infinities, not-a-numbers: untrusted)."""
    dot = math.fsum(a * b for a, b in zip(left, right, strict=True)) if all(map(math.isfinite, left)) else math.nan
    norms = math.sqrt(math.fsum(a * a for a in left) * math.fsum(b * b for b in right)) if dot == dot else 0.0
    return max(0.0, 1.0 - dot / norms) if norms > 0 else 2.0
