"""What every engine says of a GGUF file: its header's facts, what is known beside the file, and its template's price.

1. Two engines over one file say the same of it, so that one can check what the other made.
2. What a template adds is measured by rendering with it, never read out of its text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from steelyard.engines.port import EngineInfo
from steelyard.engines.vocabulary import Vocabulary
from steelyard.errors import ConfigError
from steelyard.weights.catalogue import KnownModel
from steelyard.weights.gguf import GgufHeader

EMBEDDING_CONTEXT_TOKENS = 2048
TEMPLATE_SLACK_TOKENS = 2
"""Added to what a template was measured to cost per message: a text's ends may break a merge on either side of it."""

Render = Callable[[Sequence[dict[str, Any]]], Awaitable[list[int]]]


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


def check_context(header: GgufHeader, wanted: int, name: str) -> None:
    """Refuse a context longer than the model was made for.

    Raises:
        ConfigError: says both.
    """
    if header.context_tokens and wanted > header.context_tokens:
        raise ConfigError(f"a context of {wanted} tokens was asked for, {name} has at most {header.context_tokens}")


async def describe_model(
    facts: ModelFacts, header: GgufHeader, vocabulary: Vocabulary, size_bytes: int, render: Render
) -> EngineInfo:
    """Return what the file says, and what its template costs; the engine fills in its own name, version and context."""
    per_request, per_message = await _price_template(header, render)
    return EngineInfo(
        engine="",
        engine_version="",
        model=facts.model or header.name,
        weights_url=facts.weights_url,
        weights_sha256=facts.weights_sha256,
        weights_size_bytes=size_bytes,
        quantisation=header.quantisation,
        tokenizer_hash=header.tokenizer_hash,
        template_hash=header.template_hash,
        template_request_tokens=per_request,
        template_message_tokens=per_message,
        longest_token_bytes=vocabulary.longest_bytes,
        embedding_dimension=header.embedding_dimension,
        embedding_context_tokens=min(EMBEDDING_CONTEXT_TOKENS, header.context_tokens),
        temperature_default=facts.temperature_default,
        top_p_default=facts.top_p_default,
        owns_logits=True,
    )


async def _price_template(header: GgufHeader, render: Render) -> tuple[int, int]:
    """Return the most tokens that the chat template adds per request and per message; 0 and 0 without a template."""
    if not header.template:
        return 0, 0
    one = len(await render([{"role": "user", "content": ""}]))
    three = len(await render([{"role": role, "content": ""} for role in ("user", "assistant", "user")]))
    return one, max(0, -(-(three - one) // 2)) + TEMPLATE_SLACK_TOKENS
