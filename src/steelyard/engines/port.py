"""The two doors for engines: `StepEngine`, which we drive token by token with our own sampler, and `RelayEngine`.

1. A step engine gives the most likely next tokens and takes the one that we chose; it never samples. Its sessions
   keep their KV cache from step to step, and run beside each other without changing each other's answers.
2. A relay engine samples by itself, behind an OpenAI-compatible API. Nobody can replay its choices: its grade is
   weaker.
3. Calls are cancellable between tokens; a session that is closed frees its slot at once.
4. An engine is opened by the wiring, shared by the kinds on a node, and closed by whoever opened it.

Law: docs/spec/services.md, section 5.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from steelyard.errors import BadRequest

TOP_CANDIDATES = 64
"""How many of the most likely tokens a step engine gives: the sampler's whole world (docs/spec/sampler.md)."""

Progress = Callable[[str, int, int], None]


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine says of itself and its model; a manifest is made of it, and compared with it at the start.

    Attributes:
        parameters: the OpenAI parameters that it can honour beyond those of our own sampler, e.g. ``tools``.
        owns_logits: True when it gives candidates, so that our sampler chooses.
        template_request_tokens, template_message_tokens: the most that the chat template adds, per request and message.
        longest_token_bytes: the longest text of one ordinary token; 0 when unknown.
    """

    engine: str
    engine_version: str
    model: str
    weights_url: str = ""
    weights_sha256: str = ""
    weights_size_bytes: int = 0
    quantisation: str = ""
    tokenizer_hash: str = ""
    template_hash: str = ""
    context_tokens: int = 0
    template_request_tokens: int = 0
    template_message_tokens: int = 0
    longest_token_bytes: int = 0
    embedding_dimension: int = 0
    embedding_context_tokens: int = 0
    temperature_default: float = 1.0
    top_p_default: float = 1.0
    parameters: tuple[str, ...] = ()
    owns_logits: bool = False


class Candidates(msgspec.Struct, frozen=True, gc=False):
    """The most likely next tokens, most likely first: ids and natural log-probabilities (float32, over the whole
    vocabulary).
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Embeddings(msgspec.Struct, frozen=True, gc=False):
    """Vectors of unit length, float32 little-endian, one per text in their order, and how many tokens all texts
    took.
    """

    vectors: tuple[bytes, ...]
    tokens: int


class Session(Protocol):
    """One sequence being written: its tokens so far, and their KV cache in the engine."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def room(self) -> int:
        """How many more tokens the context holds."""

    async def candidates(self) -> Candidates:
        """Return the candidates for the next position; the first call processes the prompt.

        Raises:
            Unavailable: the engine failed or was closed.
        """

    def push(self, token_id: int) -> None:
        """Append the chosen token; it is processed by the next `candidates`."""

    async def aclose(self) -> None:
        """Free the slot."""


class Scorer(Protocol):
    """An engine's way to judge a whole answer in one forward pass."""

    async def score(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Candidates]:
        """Return the candidates before each answer token, as `Session.candidates` would, one pass for all.

        Args:
            prompt: at least one token.  answer: untrusted ids; with none there is nothing to score.

        Raises:
            BadRequest: both together are longer than the context, or a token is not in the vocabulary.
            Unavailable: the engine failed or was closed.
        """


def check_prompt(tokens: Sequence[int], context_tokens: int) -> None:
    """Refuse a prompt that no session can be opened on.

    Raises:
        BadRequest: it is empty or leaves no room in the context.
    """
    if not tokens or len(tokens) >= context_tokens:
        raise BadRequest(
            f"the prompt has {len(tokens)} tokens, this model takes 1 to {context_tokens - 1}: shorten it",
            code="context_length_exceeded",
            param="messages",
        )


def check_tokens(tokens: Sequence[int], vocabulary_size: int) -> None:
    """Refuse token ids (untrusted) that a vocabulary doesn't have; raises BadRequest naming the first."""
    wrong = next((token for token in tokens if not 0 <= token < vocabulary_size), None)
    if wrong is not None:
        raise BadRequest(f"token {wrong} is not in this model's vocabulary of {vocabulary_size}")


def check_scored(prompt: Sequence[int], answer: Sequence[int], context_tokens: int) -> None:
    """Refuse what a scorer can't score.

    Raises:
        BadRequest: no prompt, or prompt and answer together are longer than the context.
    """
    if not prompt:
        raise BadRequest("an answer can't be scored without a prompt", param="messages")
    if len(prompt) + len(answer) > context_tokens:
        raise BadRequest(
            f"prompt and answer have {len(prompt)} + {len(answer)} tokens, this model takes {context_tokens}",
            code="context_length_exceeded",
            param="messages",
        )


class StepEngine(Protocol):
    """An engine whose sampler we own."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def scorer(self) -> Scorer | None:
        """What scores whole answers, or None: then they are stepped."""

    async def prepare(self, progress: Progress) -> None: ...

    async def tokenise(self, text: str) -> list[int]:
        """Return the token ids of a text as the model expects a prompt to begin (with its begin token, if it has
        one).
        """

    async def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Return the token ids of a conversation in the model's chat template, ready for the assistant's answer."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one token spells; b"" for control tokens."""

    def has_token(self, token_id: int) -> bool:
        """Tell whether the vocabulary has a token of this id (untrusted)."""

    def is_end(self, token_id: int) -> bool:
        """Tell whether a token ends the answer."""

    async def open_session(self, tokens: Sequence[int]) -> Session:
        """Open a session on a prompt; waits for a free slot.

        Raises:
            BadRequest: the prompt leaves no room in the context (`context_length_exceeded`).
        """

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector per text.

        Raises:
            BadRequest: a text is longer than the embedding context.
            Unavailable: the engine failed, or embeds nothing.
        """

    async def aclose(self) -> None: ...


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a relayed stream: text, tool-call deltas, logprobs as they came, and at the end usage and reason."""

    text: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    logprobs: msgspec.Raw | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    finish_reason: str | None = None


class RelayEngine(Protocol):
    """An engine behind an OpenAI-compatible API, which samples by itself."""

    @property
    def info(self) -> EngineInfo: ...

    async def prepare(self, progress: Progress) -> None: ...

    def relay(self, api: str, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        """Send a request on and yield its events.

        Raises:
            Unavailable: refused, unreachable, or cut before its end; a cut stream never ends cleanly.
        """

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector per text.

        Raises:
            BadRequest: a text is longer than the embedding context.
            Unavailable: the engine failed, or embeds nothing.
        """

    async def aclose(self) -> None: ...


Engine = StepEngine | RelayEngine
