"""Request bodies in OpenAI's shape: reading them fast, and refusing what would not be honoured.

1. Decoding is typed and forbids unknown fields. Whatever a caller set that the manifest's `parameters` do not list is
   a 400 naming it; fields in `NEUTRAL`, and values that change nothing (`n: 1`, `presence_penalty: 0`), pass.
2. Every refusal names the field, the value and what to do. The slow path that finds them runs only for bad bodies.
3. A manifest may list parameters that are not OpenAI's (`min_p` …); they are kept in `extra` for the engine that asked.
4. Nothing here knows a kind: `chat` and `echo` read the same bodies by the same rules.

Law: docs/spec/services.md, section 3.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

MAX_STOPS = 4
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
_TopP = Annotated[float, msgspec.Meta(gt=0, le=1)]
_TopK = Annotated[int, msgspec.Meta(ge=0, le=64)]
_MaxTokens = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Stops = _Stop | Annotated[list[_Stop], msgspec.Meta(max_length=MAX_STOPS)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`; other fields of it do not change the answer."""

    include_usage: bool | None = None


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message; only text is served."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str = ""
    refusal: str = ""


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation, as a client writes it or sends an earlier answer back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """The message's text, its parts joined."""
        content = self.content
        if content is None:
            return self.refusal or ""
        return content if isinstance(content, str) else "".join(part.text or part.refusal for part in content)


class ChatBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _MaxTokens | None = None
    max_completion_tokens: _MaxTokens | None = None
    temperature: _Temperature | None = None
    top_p: _TopP | None = None
    top_k: _TopK | None = None
    seed: _Seed | None = None
    stop: _Stops | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    n: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    service_tier: Any = None
    store: bool | None = None
    user: Any = None
    metadata: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    provider: Any = None
    extra: Any = None


class CompletionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`."""

    model: str
    prompt: str | list[str]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _MaxTokens | None = None
    temperature: _Temperature | None = None
    top_p: _TopP | None = None
    top_k: _TopK | None = None
    seed: _Seed | None = None
    stop: _Stops | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    user: Any = None
    provider: Any = None
    extra: Any = None


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/embeddings`."""

    model: str
    input: (
        Annotated[str, msgspec.Meta(min_length=1)]
        | Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: Any = None
    provider: Any = None
    extra: Any = None


Body = ChatBody | CompletionBody | EmbeddingsBody
