"""llama.cpp in process, driven token by token: every step gives the 64 likeliest tokens and takes the one we chose.

1. The model is loaded once. Sessions step and answers are scored in contexts of their own over it, through the
   library's C API (llama_decoder.py, llama_scorer.py), which is bound to one tested version (llama_library.py).
2. The library's server reads text and renders the chat template (llama_server.py); a second one embeds (mean over all
   positions, unit length), opened when first asked.

Measured (SmolLM2-135M, one thread): bench/verification/overhead.py; tests/integration/test_llama_speed.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from steelyard.engines.gguf_model import (
    EMBEDDING_CONTEXT_TOKENS,
    TEMPLATE_SLACK_TOKENS,
    ModelFacts,
    check_context,
    describe_model,
)
from steelyard.engines.llama_context import LlamaContext, LlamaModel
from steelyard.engines.llama_decoder import LlamaDecoder
from steelyard.engines.llama_library import LlamaLibrary, load_llama_library
from steelyard.engines.llama_scorer import LlamaScorer
from steelyard.engines.llama_server import REFUSED, LlamaOptions, LlamaServer, open_llama_server
from steelyard.engines.llama_session import LlamaSession
from steelyard.engines.llama_slots import SlotPool
from steelyard.engines.port import Embeddings, EngineInfo, Progress, check_prompt
from steelyard.engines.vocabulary import Vocabulary
from steelyard.errors import BadRequest, ConfigError, Fault, Unavailable
from steelyard.weights.gguf import GgufHeader, load_gguf_header

ENGINE = "llama.cpp"
WAITING_PER_SLOT = 16
READER_CONTEXT_TOKENS = 256
"""The least that llama.cpp opens: the server that reads text never computes."""


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
        self._reader: LlamaServer | None = None
        self._embedder: LlamaServer | None = None
        self._model: LlamaModel | None = None
        self._decoder: LlamaDecoder | None = None
        self._scorer: LlamaScorer | None = None
        self._slots = SlotPool(0, 0)
        self._opening = asyncio.Lock()

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise Fault("the engine's info was asked for before prepare()")
        return self._info

    @property
    def scorer(self) -> LlamaScorer | None:
        """None before `prepare`."""
        return self._scorer

    async def prepare(self, progress: Progress) -> None:
        """Load the model; safe to call twice.

        Raises:
            ConfigError: the library is missing or of a version that was never tested; the file is missing, damaged, or
                of a sort that we can't serve.
        """
        async with self._opening:
            if self._decoder is not None:
                return
            size = self._path.stat().st_size if self._path.is_file() else 0
            progress("loading the model", 0, size)
            header = await asyncio.to_thread(load_gguf_header, self._path)
            vocabulary = self._vocabulary = Vocabulary(header)
            check_context(header, self._options.context_tokens, self._path.name)
            try:
                await self._load()
                self._info = await self._measure(header, vocabulary, size)
            except BaseException:
                await self._unload()
                raise
            progress("loading the model", size, size)

    async def _load(self) -> None:
        options = self._options
        library = await asyncio.to_thread(load_llama_library)
        # First, since it is the server that silences the library.
        reading = LlamaOptions(threads=options.threads, context_tokens=READER_CONTEXT_TOKENS)
        self._reader = await open_llama_server(self._path, reading, embeds=False)
        model, context = await asyncio.to_thread(_open_context, library, self._path, options)
        self._model = model
        self._decoder = LlamaDecoder(context, options.batch_tokens)
        self._scorer = LlamaScorer(model, options)
        self._slots = SlotPool(options.slots, WAITING_PER_SLOT * options.slots, can_cut=model.can_cut)

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
        decoder, model, limit = self._decoder, self._model, self._options.context_tokens
        if decoder is None or model is None:
            raise _not_loaded()
        check_prompt(tokens, limit)
        slots = self._slots
        slot = await slots.take(tokens)
        return LlamaSession(decoder, slot, tokens, (limit, model.vocabulary_size), slots.give_back)

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
        answer = await embedder.embed(texts)
        items = sorted(answer["data"], key=lambda item: item["index"])
        vectors = tuple(struct.pack(f"<{len(item['embedding'])}f", *item["embedding"]) for item in items)
        return Embeddings(vectors, int(answer["usage"]["prompt_tokens"]))

    async def _open_embedder(self, limit: int) -> LlamaServer:
        async with self._opening:
            if self._embedder is None:
                options = LlamaOptions(threads=self._options.threads, context_tokens=limit, batch_tokens=limit)
                self._embedder = await open_llama_server(self._path, options, embeds=True)
            return self._embedder

    def _server(self) -> LlamaServer:
        if self._reader is None:
            raise _not_loaded()
        return self._reader

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
        """Let what runs come to its end, then unload the model; whoever waits is told. Safe to call twice."""
        async with self._opening:
            await self._unload()

    async def _unload(self) -> None:
        self._slots.close()
        for part in (self._decoder, self._scorer, self._reader, self._embedder):
            if part is not None:
                await part.aclose()
        self._decoder = self._scorer = self._reader = self._embedder = None
        model, self._model = self._model, None
        if model is not None:
            await asyncio.to_thread(model.close)


def _open_context(library: LlamaLibrary, path: Path, options: LlamaOptions) -> tuple[LlamaModel, LlamaContext]:
    model = LlamaModel(library, path)
    try:
        return model, model.open_context(options.slots, options)
    except ConfigError:
        model.close()
        raise


def llama_version() -> str:
    """Return the version of the llama.cpp wheel that is installed, without loading it; "" if none is."""
    try:
        return f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        return ""


def _not_loaded() -> Unavailable:
    return Unavailable("the model engine is not loaded", code="engine_closed")
