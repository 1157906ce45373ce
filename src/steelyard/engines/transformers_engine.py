"""transformers and torch over a GGUF file's dequantised weights: the engine beside llama.cpp.

1. It steps and it scores, so a node can serve with it and a validator replay with it, whatever the other one runs.
2. All work is done by one thread, one step after the other; sessions have caches of their own and never meet.
3. What a token spells and what ends an answer comes from the file's own header, as for llama.cpp.

Install: ``pip install 'steelyard[transformers]'``.  Self-check: bench/verification/engines_agree.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from steelyard.engines.gguf_model import ModelFacts, check_context, describe_model
from steelyard.engines.port import Candidates, Embeddings, EngineInfo, Progress, check_prompt, check_scored
from steelyard.engines.transformers_model import ENGINE, TorchModel, transformers_version
from steelyard.engines.vocabulary import Vocabulary
from steelyard.errors import BadRequest, Fault, Unavailable
from steelyard.weights.gguf import load_gguf_header

_T = TypeVar("_T")


class TransformersOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is opened: compute threads, context per sequence, and sequences at once."""

    threads: int = 1
    context_tokens: int = 2048
    slots: int = 2


class TransformersEngine:
    """A GGUF model in torch; a `StepEngine` and its own `Scorer`."""

    def __init__(
        self, path: Path, *, facts: ModelFacts | None = None, options: TransformersOptions | None = None
    ) -> None:
        """Name the file to serve; nothing is loaded before `prepare`.

        Args:
            path: the GGUF file, whose hash the caller has proven.
            facts: what the file itself does not say, for the manifest.
            options: threads, context and slots.
        """
        self._path = path
        self._facts = facts or ModelFacts()
        self._options = options or TransformersOptions()
        self._info: EngineInfo | None = None
        self._vocabulary: Vocabulary | None = None
        self._model: TorchModel | None = None
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(self._options.slots)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise Fault("the engine's info was asked for before prepare()")
        return self._info

    @property
    def scorer(self) -> TransformersEngine:
        return self

    async def prepare(self, progress: Progress) -> None:
        """Load the model; safe to call twice.

        Raises:
            ConfigError: a package is missing, or the file is missing, damaged, or of a sort that we can't serve.
        """
        async with self._opening:
            if self._model is not None:
                return
            size = self._path.stat().st_size if self._path.is_file() else 0
            progress("loading the model", 0, size)
            header = await asyncio.to_thread(load_gguf_header, self._path)
            vocabulary = self._vocabulary = Vocabulary(header)
            check_context(header, self._options.context_tokens, self._path.name)
            loop = asyncio.get_running_loop()
            self._model = await loop.run_in_executor(
                self._pool, TorchModel, self._path, header.tokenizer_pre, self._options.threads
            )
            self._info = msgspec.structs.replace(
                await describe_model(self._facts, header, vocabulary, size, self.render),
                engine=ENGINE,
                engine_version=transformers_version(),
                context_tokens=self._options.context_tokens,
            )
            progress("loading the model", size, size)

    async def tokenise(self, text: str) -> list[int]:
        return await self.compute(lambda model: model.tokenise(text))

    async def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        return await self.compute(lambda model: model.render(messages))

    def token_bytes(self, token_id: int) -> bytes:
        return self._spelling().token_bytes(token_id)

    def has_token(self, token_id: int) -> bool:
        return 0 <= token_id < len(self._spelling())

    def is_end(self, token_id: int) -> bool:
        return self._spelling().is_end(token_id)

    async def open_session(self, tokens: Sequence[int]) -> TransformersSession:
        limit = self._options.context_tokens
        check_prompt(tokens, limit)
        await self._free.acquire()
        return TransformersSession(self, tokens, limit, self._free.release)

    async def score(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Candidates]:
        check_scored(prompt, answer, self._options.context_tokens)
        if not answer:
            return []
        return await self.compute(lambda model: model.score(prompt, answer))

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        limit, vectors, count = self.info.embedding_context_tokens, [], 0
        for index, text in enumerate(texts):
            tokens = await self.tokenise(text)
            if not 0 < len(tokens) <= limit:
                raise BadRequest(
                    f"input {index} has {len(tokens)} tokens, this model embeds 1 to {limit}: split it",
                    code="context_length_exceeded",
                    param="input",
                )
            vector = await self.compute(lambda model, tokens=tokens: model.embed(tokens))  # type: ignore[misc]  # bound
            vectors.append(struct.pack(f"<{len(vector)}f", *vector))
            count += len(tokens)
        return Embeddings(tuple(vectors), count)

    async def compute(self, work: Callable[[TorchModel], _T]) -> _T:
        """Run something with the model, in its thread.

        Raises:
            Unavailable: the engine is closed, or torch failed.
        """
        model = self._model
        if model is None:
            raise Unavailable("the model engine is not loaded", code="engine_closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, model)
        except RuntimeError as error:  # what torch raises for all its troubles
            raise Unavailable(f"the engine failed: {error}", code="engine_failed") from error

    async def aclose(self) -> None:
        """Let the step that runs come to its end, then unload the model; safe to call twice."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        self._model = None

    def _spelling(self) -> Vocabulary:
        if self._vocabulary is None:
            raise Fault("a token was spelled before prepare()")
        return self._vocabulary


class TransformersSession:
    """A `Session` with a cache of its own."""

    def __init__(
        self, engine: TransformersEngine, tokens: Sequence[int], limit: int, give_back: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._fresh = list(tokens)
        self._limit = limit
        self._length = len(tokens)
        self._cache: Any = None
        self._last: Candidates | None = None
        self._give_back: Callable[[], None] | None = give_back
        self.prompt_tokens = len(tokens)

    @property
    def room(self) -> int:
        return self._limit - self._length

    async def candidates(self) -> Candidates:
        if self._give_back is None:
            raise Fault("a closed session was stepped")
        if self._last is not None and not self._fresh:
            return self._last
        fresh, cache = tuple(self._fresh), self._cache
        found, self._cache = await self._engine.compute(lambda model: model.step(fresh, cache))
        self._last = found
        self._fresh.clear()
        return found

    def push(self, token_id: int) -> None:
        self._fresh.append(token_id)
        self._length += 1

    async def aclose(self) -> None:
        give_back, self._give_back, self._cache = self._give_back, None, None
        if give_back is not None:
            give_back()
