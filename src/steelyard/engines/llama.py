"""llama.cpp in process, driven token by token: every step asks for the 64 likeliest tokens and takes the one we chose.

1. A session owns one slot of the server from its opening to its closing, so its KV cache is never another's.
2. A new session gets the free slot that already holds the longest part of its prompt.
3. A prompt is processed in pieces of one batch, so that cancelling waits for a piece and not for a prompt.
4. The engine's own choice is thrown away: a bias makes it a harmless one, because llama.cpp leaves out the
   log-probabilities of a token that ends inside a character. The log-probabilities are those before any bias.
5. Embeddings come from a second context over the same file (mean over all positions, unit length), opened when first
   asked.
6. Whole answers are scored in one forward pass over a third context, opened when first asked (llama_logits.py).

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
import structlog

from steelyard.engines.gguf_model import (
    EMBEDDING_CONTEXT_TOKENS,
    TEMPLATE_SLACK_TOKENS,
    ModelFacts,
    check_context,
    describe_model,
)
from steelyard.engines.llama_gate import StepGate, raise_error
from steelyard.engines.llama_library import check_version
from steelyard.engines.llama_logits import LlamaScorer
from steelyard.engines.llama_server import REFUSED, LlamaOptions, LlamaServer, open_llama_server
from steelyard.engines.llama_session import LlamaSession, step_request
from steelyard.engines.port import Embeddings, EngineInfo, Progress, check_prompt
from steelyard.engines.vocabulary import Vocabulary
from steelyard.errors import BadRequest, ConfigError, Fault, Unavailable
from steelyard.weights.gguf import GgufHeader, load_gguf_header

ENGINE = "llama.cpp"
WAITING_PER_SLOT = 16

_log = structlog.get_logger("steelyard.engines")


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
        self._scorer: LlamaScorer | None = None
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(self._options.slots)
        self._waiting = 0
        self._idle_slots: dict[int, tuple[int, ...]] = dict.fromkeys(range(self._options.slots), ())

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise Fault("the engine's info was asked for before prepare()")
        return self._info

    @property
    def scorer(self) -> LlamaScorer | None:
        """None before `prepare`, and with a version of the library whose C API was never tested."""
        return self._scorer

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
            check_context(header, self._options.context_tokens, self._path.name)
            generator = await open_llama_server(self._path, self._options)
            self._generator, self._vocabulary = generator, vocabulary
            self._gate = StepGate(generator, step_request(vocabulary.plain_token))
            try:
                self._info = await self._measure(header, vocabulary, size)
            except BaseException:
                self._generator = None
                await generator.aclose()
                raise
            self._scorer = self._open_scorer()
            progress("loading the model", size, size)

    def _open_scorer(self) -> LlamaScorer | None:
        try:
            check_version(version("xllamacpp"))
        except ConfigError as error:
            _log.warning("scorer_skipped", reason=error.message)
            return None
        return LlamaScorer(self._path, self._options)

    async def _measure(self, header: GgufHeader, vocabulary: Vocabulary, size: int) -> EngineInfo:
        return msgspec.structs.replace(
            await describe_model(self._facts, header, vocabulary, size, self.render),
            engine=ENGINE,
            engine_version=llama_version(),
            context_tokens=self._options.context_tokens,
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
        check_prompt(tokens, limit)
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
        for part in (self._scorer, self._generator, self._embedder):
            if part is not None:
                await part.aclose()
        self._generator = self._embedder = self._gate = self._scorer = None


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
