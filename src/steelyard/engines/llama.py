"""llama.cpp in process, driven token by token: every step asks for the 64 likeliest tokens and takes the one we chose.

1. A session owns one slot of the server from its opening to its closing, so its KV cache is never another's.
2. A new session gets the free slot that already holds the longest part of its prompt.
3. A prompt is processed in pieces of one batch, so that cancelling waits for a piece and not for a prompt.
4. The engine's own choice is thrown away: a bias makes it a harmless one, because llama.cpp leaves out the
   log-probabilities of a token that ends inside a character. The log-probabilities are those before any bias.
5. Embeddings come from a second context over the same file (mean over all positions, unit length), opened when first
   asked.

Measured (SmolLM2-135M, one thread): stepping costs what the engine's own loop costs;
tests/integration/test_llama_speed.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from steelyard.engines.llama_gate import StepGate, raise_error
from steelyard.engines.llama_server import REFUSED, LlamaOptions, LlamaServer, open_llama_server
from steelyard.engines.llama_session import LlamaSession, step_request
from steelyard.engines.port import Embeddings, EngineInfo, Progress
from steelyard.engines.vocabulary import Vocabulary
from steelyard.errors import BadRequest, ConfigError, Fault, Unavailable
from steelyard.weights.catalogue import KnownModel
from steelyard.weights.gguf import GgufHeader, load_gguf_header

ENGINE = "llama.cpp"
EMBEDDING_CONTEXT_TOKENS = 2048
WAITING_PER_SLOT = 16
TEMPLATE_SLACK_TOKENS = 2
"""Added to what a template was measured to cost per message: a text's ends may break a merge on either side of it."""

_FORCING_BIAS = 10_000.0


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model beside its file: its name, where it came from, its hash, and its card's sampling
    advice.
    """

    model: str = ""
    weights_url: str = ""
    weights_sha256: str = ""
    temperature_default: float = 1.0
    top_p_default: float = 1.0


def facts_of(model: KnownModel) -> ModelFacts:
    """Return the facts of a model in the catalogue."""
    return ModelFacts(
        model=model.name,
        weights_url=model.url,
        weights_sha256=model.sha256,
        temperature_default=model.temperature,
        top_p_default=model.top_p,
    )


class LlamaEngine:
    """A GGUF model on this machine; a `StepEngine`."""

    def __init__(
        self,
        path: Path,
        *,
        facts: ModelFacts | None = None,
        options: LlamaOptions | None = None,
    ) -> None:
        """Name the file to serve; nothing is loaded before `prepare`.

        Args:
            path: the GGUF file, whose hash the caller has proven.
            facts: what the file itself does not say, for the manifest.
            options: slots, threads and context per slot.
        """
        self._path = path
        self._options = options or LlamaOptions(slots=2)
        self._facts = facts or ModelFacts()
        self._info: EngineInfo | None = None
        self._vocabulary: Vocabulary | None = None
        self._generator: LlamaServer | None = None
        self._gate: StepGate | None = None
        self._embedder: LlamaServer | None = None
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(self._options.slots)
        self._waiting = 0
        self._idle_slots: dict[int, tuple[int, ...]] = dict.fromkeys(range(self._options.slots), ())

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise Fault("the engine's info was asked for before prepare()")
        return self._info

    async def prepare(self, progress: Progress) -> None:
        """Load the model; safe to call twice.

        Raises:
            ConfigError: the library or the file is missing, damaged, or of a sort that we can't serve.
        """
        async with self._opening:
            if self._generator is not None:
                return
            size = self._path.stat().st_size if self._path.is_file() else 0
            progress("loading the model", 0, size)
            header = await asyncio.to_thread(load_gguf_header, self._path)
            vocabulary = Vocabulary(header)
            wanted = self._options.context_tokens
            if header.context_tokens and wanted > header.context_tokens:
                raise ConfigError(
                    f"a context of {wanted} tokens was asked for, {self._path.name} has at most {header.context_tokens}"
                )
            generator = await open_llama_server(self._path, self._options)
            self._generator, self._vocabulary = generator, vocabulary
            self._gate = StepGate(generator, step_request(vocabulary.plain_token))
            try:
                self._info = await self._measure(header, vocabulary, size)
            except BaseException:
                self._generator = None
                await generator.aclose()
                raise
            progress("loading the model", size, size)

    async def _measure(self, header: GgufHeader, vocabulary: Vocabulary, size: int) -> EngineInfo:
        facts = self._facts
        per_request = per_message = 0
        if header.template:
            one = len(await self.render([{"role": "user", "content": ""}]))
            three = len(await self.render([{"role": role, "content": ""} for role in ("user", "assistant", "user")]))
            per_message = max(0, -(-(three - one) // 2)) + TEMPLATE_SLACK_TOKENS
            per_request = one
        return EngineInfo(
            engine=ENGINE,
            engine_version=llama_version(),
            model=facts.model or header.name,
            weights_url=facts.weights_url,
            weights_sha256=facts.weights_sha256,
            weights_size_bytes=size,
            quantisation=header.quantisation,
            tokenizer_hash=header.tokenizer_hash,
            template_hash=header.template_hash,
            context_tokens=self._options.context_tokens,
            template_request_tokens=per_request,
            template_message_tokens=per_message,
            longest_token_bytes=vocabulary.longest_bytes,
            embedding_dimension=header.embedding_dimension,
            embedding_context_tokens=min(EMBEDDING_CONTEXT_TOKENS, header.context_tokens),
            temperature_default=facts.temperature_default,
            top_p_default=facts.top_p_default,
            owns_logits=True,
        )

    async def tokenise(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True, "parse_special": True}
        return list((await self._server().post("/tokenize", body))["tokens"])

    async def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        try:
            rendered = await self._server().post("/apply-template", {"messages": list(messages)})
        except Unavailable as error:
            if error.code != REFUSED:
                raise
            raise BadRequest(
                f"the model's chat template refuses this conversation: {error.message}", param="messages"
            ) from error
        return await self.tokenise(rendered["prompt"])

    def token_bytes(self, token_id: int) -> bytes:
        return self._spelling().token_bytes(token_id)

    def has_token(self, token_id: int) -> bool:
        return 0 <= token_id < len(self._spelling())

    def is_end(self, token_id: int) -> bool:
        return self._spelling().is_end(token_id)

    async def open_session(self, tokens: Sequence[int]) -> LlamaSession:
        """Take a slot for a prompt; waits while all are busy.

        Raises:
            BadRequest: the prompt is empty or leaves no room in the context.
            Unavailable: too many are waiting already, or the engine is closed.
        """
        server, limit = self._server(), self._options.context_tokens
        if not tokens or len(tokens) >= limit:
            raise BadRequest(
                f"the prompt has {len(tokens)} tokens, this model takes 1 to {limit - 1}: shorten it",
                code="context_length_exceeded",
                param="messages",
            )
        if self._waiting >= WAITING_PER_SLOT * self._options.slots:
            raise Unavailable(
                "every slot of the engine is busy and its queue is full", code="engine_busy", retry_after_s=1
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        slot = max(self._idle_slots, key=lambda idle: _shared_prefix(self._idle_slots[idle], tokens))
        cached = _shared_prefix(self._idle_slots.pop(slot), tokens)

        def give_back(processed: tuple[int, ...]) -> None:
            self._idle_slots[slot] = processed
            self._free.release()

        return LlamaSession(server, self._stepping(), slot, tokens, cached, give_back)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        limit = min(EMBEDDING_CONTEXT_TOKENS, self.info.embedding_context_tokens)
        for index, text in enumerate(texts):
            # A token spells at least a byte, so only long texts need counting.
            if len(text.encode()) + TEMPLATE_SLACK_TOKENS > limit and (count := len(await self.tokenise(text))) > limit:
                raise BadRequest(
                    f"input {index} has {count} tokens, this model embeds at most {limit}: split it",
                    code="context_length_exceeded",
                    param="input",
                )
        embedder = await self._open_embedder(limit)
        answer = await asyncio.wrap_future(embedder.submit("handle_embeddings", {"input": list(texts)}))
        raise_error(answer, "input")
        items = sorted(answer["data"], key=lambda item: item["index"])
        vectors = tuple(struct.pack(f"<{len(item['embedding'])}f", *item["embedding"]) for item in items)
        return Embeddings(vectors, int(answer["usage"]["prompt_tokens"]))

    async def _open_embedder(self, limit: int) -> LlamaServer:
        async with self._opening:
            if self._embedder is None:
                options = LlamaOptions(
                    threads=self._options.threads, context_tokens=limit, batch_tokens=limit, is_embedder=True
                )
                self._embedder = await open_llama_server(self._path, options)
            return self._embedder

    def _server(self) -> LlamaServer:
        if self._generator is None:
            raise Unavailable("the model engine is not loaded", code="engine_closed")
        return self._generator

    def _stepping(self) -> StepGate:
        if self._gate is None:
            raise Unavailable("the model engine is not loaded", code="engine_closed")
        return self._gate

    def _spelling(self) -> Vocabulary:
        if self._vocabulary is None:
            raise Fault("a token was spelled before prepare()")
        return self._vocabulary

    @property
    def base_url(self) -> str:
        """Where the library listens by itself, on this machine alone and behind a random key; for tests and
        `doctor`.
        """
        return self._server().base_url

    async def aclose(self) -> None:
        for server in (self._generator, self._embedder):
            if server is not None:
                await server.aclose()
        self._generator = self._embedder = self._gate = None


def llama_version() -> str:
    """Return the version of the llama.cpp wheel that is installed, without loading it; "" if none is."""
    try:
        return f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        return ""


def _shared_prefix(cached: Sequence[int], tokens: Sequence[int]) -> int:
    shared = 0
    for left, right in zip(cached, tokens, strict=False):  # the shorter one ends the comparison
        if left != right:
            break
        shared += 1
    return shared
