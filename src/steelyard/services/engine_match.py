"""Manifests and engines: making the one from the other, and refusing to start when they differ.

Law: docs/spec/services.md, section 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steelyard.errors import ConfigError
from steelyard.services.manifest import Manifest, TemplateOverhead, Weights

if TYPE_CHECKING:
    from steelyard.engines.port import EngineInfo


def describe_engine(name: str, kind: str, info: EngineInfo, **particulars: Any) -> Manifest:
    """Return a manifest with everything that an engine says of itself, and the kind's own particulars."""
    weights = None
    if info.weights_sha256:
        weights = Weights(url=info.weights_url, sha256=info.weights_sha256, size_bytes=info.weights_size_bytes)
    return Manifest(
        name=name,
        kind=kind,
        engine=info.engine,
        engine_version=info.engine_version,
        weights=weights,
        quantisation=info.quantisation,
        tokenizer_hash=info.tokenizer_hash,
        template_hash=info.template_hash,
        temperature_default=info.temperature_default,
        top_p_default=info.top_p_default,
        template_overhead=TemplateOverhead(
            per_request=info.template_request_tokens, per_message=info.template_message_tokens
        ),
        longest_token_bytes=info.longest_token_bytes,
        **particulars,
    )


def check_engine(manifest: Manifest, info: EngineInfo, context_tokens: int) -> None:
    """Compare an engine that is loaded, and the context it gives this kind, with the manifest that it is to serve.

    Raises:
        ConfigError: other weights, tokenizer, template or context; names both values.
    """
    pairs = [
        ("tokenizer", manifest.tokenizer_hash, info.tokenizer_hash),
        ("chat template", manifest.template_hash, info.template_hash),
        ("quantisation", manifest.quantisation, info.quantisation),
    ]
    if manifest.weights is not None:
        pairs.append(("weights", manifest.weights.sha256, info.weights_sha256))
    for what, promised, found in pairs:
        if promised and promised != found:
            raise ConfigError(
                f"{manifest.name!r} promises the {what} {promised}, the engine has {found or 'not said which'}: "
                "serve what the manifest names, or register another service"
            )
    if context_tokens != manifest.context_tokens:
        raise ConfigError(
            f"{manifest.name!r} promises a context of {manifest.context_tokens} tokens, the engine was opened with "
            f"{context_tokens}: open it with the manifest's"
        )
