"""`ChatService`: one model for chat, stepped by our sampler or relayed to an engine that samples by itself.

1. The manifest alone says what is honoured and how it can be checked: with `sampler` set, every choice is replayable.
2. At the start the engine is compared with the manifest: other weights, tokenizer or template is no start at all.

Law: docs/spec/kinds/chat.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from steelyard.errors import BadRequest, ConfigError, Unavailable
from steelyard.protocol.sampler import SAMPLER
from steelyard.services.chat.evidence import (
    RELAY_TAG,
    compare_rows,
    decode_claim,
    encode_claim,
)
from steelyard.services.chat.relaying import compare_relayed, relay_answer
from steelyard.services.chat.replaying import replay_answer
from steelyard.services.chat.replays import (
    REPLAYS,
    SECOND_TAG,
    ReplayRequests,
    compare_replays,
    quote_replay,
    sell_replay,
)
from steelyard.services.chat.seam import quote_rest
from steelyard.services.chat.stepping import stream_answer
from steelyard.services.engine_match import check_engine, describe_engine
from steelyard.services.manifest import Manifest
from steelyard.services.port import (
    Check,
    Chunk,
    Comparison,
    Context,
    Grade,
    Prefix,
    Progress,
    Quote,
    Request,
    Result,
)
from steelyard.services.text_requests import TEXT_APIS, TextPayload, TextRequests

if TYPE_CHECKING:
    from steelyard.engines.port import Engine, EngineInfo, RelayEngine, StepEngine

STEP_PARAMETERS = (
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_logprobs",
    "top_p",
)
RELAY_PARAMETERS = ("max_completion_tokens", "max_tokens", "stop", "temperature", "top_p")
MAX_TOKENS_DEFAULT = 512


class ChatService:
    """One `chat` service."""

    kind = "chat"
    unit = "token"
    check: Check = "statistical"
    apis = TEXT_APIS | {REPLAYS}
    needs_engine = True

    def __init__(
        self, manifest: Manifest, *, engine: Engine | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        if options:
            raise ConfigError(f"chat has no option {sorted(options)[0]!r}; it has none")
        self._manifest = manifest
        self._engine = engine
        self._requests = TextRequests(manifest)
        self._replays = ReplayRequests(manifest, self._requests)

    @staticmethod
    def describe(name: str, info: EngineInfo | None = None, *, owned_by: str = "steelyard") -> Manifest:
        if info is None:
            raise ConfigError(f"the chat service {name!r} needs an engine to be described")
        parameters = STEP_PARAMETERS if info.owns_logits else (*RELAY_PARAMETERS, *info.parameters)
        return describe_engine(
            name,
            "chat",
            info,
            owned_by=owned_by,
            sampler=SAMPLER if info.owns_logits else "",
            parameters=tuple(sorted(set(parameters))),
            context_tokens=info.context_tokens,
            max_tokens_default=min(MAX_TOKENS_DEFAULT, info.context_tokens // 4),
        )

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def grade(self) -> Grade:
        if self._manifest.sampler == SAMPLER:
            return Grade.STATISTICAL
        return Grade.LOGPROBS if "logprobs" in self._manifest.parameters else Grade.UNCHECKED

    def parse(self, api: str, body: bytes) -> Request:
        if api == REPLAYS:
            if self._manifest.sampler != SAMPLER:
                raise BadRequest(
                    f"{self._manifest.name!r} is sampled by its own engine: nobody can replay it", param="model"
                )
            return self._replays.parse(body)
        return self._requests.parse(api, body)

    def quote(self, request: Request) -> Quote:
        if request.api == REPLAYS:
            inner = self.quote(request.payload.request)
            return quote_replay(request.payload, inner, self._manifest.context_tokens)
        manifest, payload = self._manifest, cast(TextPayload, request.payload)
        overhead, messages = manifest.template_overhead, payload.messages
        added = overhead.per_request + overhead.per_message * (1 if messages is None else len(messages))
        context = manifest.context_tokens
        maximum = manifest.max_tokens_default if payload.max_tokens is None else payload.max_tokens
        return Quote(min(request.input_bytes + added, context), min(maximum, context))

    @property
    def can_continue(self) -> bool:
        """Whether an answer can go on after another machine's: only where the choices are our sampler's."""
        return self._manifest.sampler == SAMPLER

    def quote_rest(self, request: Request, prefix: Prefix) -> Quote | None:
        """See `ContinuingService`."""
        return quote_rest(self._manifest, request, self.quote(request), prefix)

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        if request.api == REPLAYS:
            yield await sell_replay(request.payload, self.replay)
            return
        engine, quote = self._running(), self.quote(request)
        if engine.info.owns_logits:
            chunks = stream_answer(cast("StepEngine", engine), request, context, quote)
        else:
            chunks = relay_answer(cast("RelayEngine", engine), self._manifest, request, context, quote)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def evidence(self, request: Request, result: Result) -> bytes:
        if not result.trace:
            return b""
        if self._manifest.sampler == SAMPLER:
            return encode_claim(result.units_in, result.trace)
        return RELAY_TAG + result.trace

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        if self._manifest.sampler != SAMPLER:
            raise Unavailable("the engine's own sampler made this answer: it can't be replayed", code="no_replay")
        if request.api == REPLAYS:
            return SECOND_TAG + (await sell_replay(request.payload, self.replay)).content
        claim, engine = decode_claim(claimed), self._running()
        if not engine.info.owns_logits:
            raise Unavailable("this engine gives no candidates: it can't replay", code="no_replay")
        return await replay_answer(cast("StepEngine", engine), request, result, claim, context, self.quote(request))

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        if self._manifest.sampler != SAMPLER:
            return compare_relayed(result, claimed)
        if replayed.startswith(SECOND_TAG):
            return compare_replays(result, claimed, replayed)
        return compare_rows(claimed, replayed)

    async def prepare(self, progress: Progress) -> None:
        if self._engine is None:
            raise ConfigError(f"the chat service {self._manifest.name!r} needs an engine to run")
        await self._engine.prepare(progress)
        check_engine(self._manifest, self._engine.info, self._engine.info.context_tokens)
        name, sampler, info = self._manifest.name, self._manifest.sampler, self._engine.info
        if sampler not in ("", SAMPLER):
            raise ConfigError(f"{name!r} wants the sampler {sampler!r}, which this version does not have: update")
        if sampler and not info.owns_logits:
            raise ConfigError(f"{name!r} promises our sampler, and {info.engine} samples by itself")
        if not sampler and info.owns_logits:
            raise ConfigError(f"{name!r} promises the engine's own sampler, and {info.engine} is stepped by ours")

    async def aclose(self) -> None:
        return None

    def _running(self) -> Engine:
        if self._engine is None:
            raise ConfigError(f"the chat service {self._manifest.name!r} has no engine on this machine")
        return self._engine
