"""Manifests: what a service promises, word for word, so that a provider can't serve something else under its name.

1. The JSON bytes of a manifest are a blob; the SHA-256 of those bytes is what the chain registers. Nothing else of it
   is hashed.
2. Encoding is canonical (sorted keys, no spaces, every field present but empty ones of `LATER`), so that equal
   manifests are equal blobs.
3. A manifest read back is validated in full: unknown fields, wrong types and impossible numbers are refused.

Law: docs/spec/services.md, section 1.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage

MAX_MANIFEST_BYTES = 64 * 1024

LATER = ("chain", "family")
"""Fields that came after manifests had been registered: left out where empty, so that those keep their bytes."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._:/@-]{0,63}$")]
_NameOrNone = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9._:/@-]{0,63})?$")]
_Hash = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one file of weights that makes the answers: where to fetch it and what it must hash to."""

    url: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, msgspec.Meta(ge=1)]


class TemplateOverhead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most tokens that a chat template adds: once per request, and once more per message, beyond their own
    bytes.
    """

    per_request: _Count = 0
    per_message: _Count = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a service is made of and what it honours.

    `parameters` lists the request fields that change the answer and are honoured; a request that sets another is
    refused. `sampler` names the portable sampler when the kind owns it; empty means that the engine samples by
    itself, which no one can replay. `longest_token_bytes` is the longest piece of text that one token spells (0:
    unknown). `chain` is the blockchain that a relay serves, by its id in the catalogue or a name of its own; `family`
    says for one that isn't in the catalogue which family's methods it has.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    name: _Name
    kind: _Name
    owned_by: Annotated[str, msgspec.Meta(max_length=128)] = "steelyard"
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    created: _Count = 0
    engine: Annotated[str, msgspec.Meta(max_length=64)] = ""
    engine_version: Annotated[str, msgspec.Meta(max_length=64)] = ""
    weights: Weights | None = None
    quantisation: Annotated[str, msgspec.Meta(max_length=64)] = ""
    tokenizer_hash: _Hash = ""
    template_hash: _Hash = ""
    sampler: Annotated[str, msgspec.Meta(max_length=64)] = ""
    context_tokens: _Count = 0
    max_tokens_default: _Count = 0
    temperature_default: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p_default: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    parameters: tuple[str, ...] = ()
    template_overhead: TemplateOverhead = TemplateOverhead()
    longest_token_bytes: _Count = 0
    embedding_dimension: _Count = 0
    chain: _NameOrNone = ""
    family: _NameOrNone = ""


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical JSON bytes of a manifest: the blob that is stored and whose SHA-256 is registered."""
    fields = msgspec.to_builtins(manifest)
    return _encoder.encode({name: value for name, value in fields.items() if value or name not in LATER})


def manifest_digest(blob: bytes) -> bytes:
    """Return the 32-byte SHA-256 of a manifest's bytes, as registered on chain."""
    return hashlib.sha256(blob).digest()


def decode_manifest(blob: bytes) -> Manifest:
    """Return the manifest in the untrusted bytes of a blob.

    Raises:
        BadMessage: too large, not JSON, an unknown field, a wrong type or an impossible number; says which.
    """
    if len(blob) > MAX_MANIFEST_BYTES:
        raise BadMessage(f"manifest of {len(blob)} bytes, the limit is {MAX_MANIFEST_BYTES}")
    try:
        manifest = _decoder.decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"manifest is malformed: {error}") from error
    if len(set(manifest.parameters)) != len(manifest.parameters):
        raise BadMessage(f"manifest of {manifest.name!r} lists a parameter twice: {', '.join(manifest.parameters)}")
    if manifest.max_tokens_default > manifest.context_tokens:
        raise BadMessage(
            f"manifest of {manifest.name!r}: max_tokens_default {manifest.max_tokens_default} is above its context of "
            f"{manifest.context_tokens} tokens"
        )
    return manifest
