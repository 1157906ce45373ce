"""Reading a GGUF file's header: what a model is, without an engine.

1. Only the header is read; tensors are never touched. Every length is bounded before anything is allocated for it.
2. A tokenizer's hash covers what decides tokenisation: its model, pre-tokenizer, pieces, piece types and merges.
3. Nothing here trusts the file: a malformed header is a `ConfigError` naming the path.

Source: the GGUF specification, version 3 (ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from steelyard.errors import ConfigError

CONTROL_TYPES = frozenset({3, 5})
"""Piece types that spell nothing: control tokens and unused ones."""

BYTE_TYPE = 6
USER_DEFINED_TYPE = 4

_MAGIC = b"GGUF"
_MAX_ITEMS = 4_000_000
_MAX_STRING = 16 * 1024 * 1024
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Names of llama.cpp's file types (llama_ftype): the quantisation that most tensors have.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF file says of its model. `pieces` are the vocabulary's raw strings, `piece_types` their types;
    `tokenizer_pre` names how a text is cut before its pieces are merged.
    """

    name: str
    architecture: str
    quantisation: str
    context_tokens: int
    embedding_dimension: int
    tokenizer_model: str
    tokenizer_pre: str = ""
    tokenizer_hash: str
    template: str
    template_hash: str
    pieces: tuple[bytes, ...]
    piece_types: tuple[int, ...]
    eos_token_id: int | None


def load_gguf_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file on this machine.

    Raises:
        ConfigError: the file is missing, is not GGUF 2 or 3, or its header is malformed.
    """
    try:
        with path.open("rb") as file:
            fields = _read_fields(file)
    except FileNotFoundError as error:
        raise ConfigError(f"weight file {path} does not exist") from error
    except OSError as error:
        raise ConfigError(f"weight file {path} can't be read: {error.strerror}") from error
    except (_Malformed, UnicodeDecodeError, struct.error) as error:
        raise ConfigError(f"{path} is not a readable GGUF file: {error}") from error
    return _describe(fields)


class _Malformed(Exception):
    """A header that breaks the format; never leaves this module."""


def _describe(fields: dict[str, Any]) -> GgufHeader:
    architecture = str(fields.get("general.architecture", b""), "utf-8", "replace")
    template = fields.get("tokenizer.chat_template", b"")
    pieces = tuple(fields.get("tokenizer.ggml.tokens", ()))
    types = tuple(fields.get("tokenizer.ggml.token_type", ())) or (1,) * len(pieces)
    return GgufHeader(
        name=str(fields.get("general.name", b""), "utf-8", "replace"),
        architecture=architecture,
        quantisation=_FILE_TYPES.get(fields.get("general.file_type", -1), "unknown"),
        context_tokens=int(fields.get(f"{architecture}.context_length", 0)),
        embedding_dimension=int(fields.get(f"{architecture}.embedding_length", 0)),
        tokenizer_model=str(fields.get("tokenizer.ggml.model", b""), "utf-8", "replace"),
        tokenizer_pre=str(fields.get("tokenizer.ggml.pre", b""), "utf-8", "replace"),
        tokenizer_hash=_tokenizer_hash(fields, pieces, types),
        template=str(template, "utf-8", "replace"),
        template_hash=hashlib.sha256(template).hexdigest() if template else "",
        pieces=pieces,
        piece_types=types,
        eos_token_id=fields.get("tokenizer.ggml.eos_token_id"),
    )


def _tokenizer_hash(fields: dict[str, Any], pieces: tuple[bytes, ...], types: tuple[int, ...]) -> str:
    """SHA-256 over length-prefixed parts, so that no two vocabularies run together into the same bytes."""
    hasher = hashlib.sha256(b"steelyard/tokenizer/1")
    head = (fields.get("tokenizer.ggml.model", b""), fields.get("tokenizer.ggml.pre", b""))
    for group in (head, pieces, tuple(fields.get("tokenizer.ggml.merges", ()))):
        hasher.update(len(group).to_bytes(8, "big"))
        for part in group:
            hasher.update(len(part).to_bytes(4, "big") + part)
    hasher.update(struct.pack(f">{len(types)}i", *types))
    return hasher.hexdigest()


def _read_fields(file: BinaryIO) -> dict[str, Any]:
    if _take(file, 4) != _MAGIC:
        raise _Malformed("it does not begin with GGUF")
    version, _tensors, count = struct.unpack("<IQQ", _take(file, 20))
    if version not in (2, 3):
        raise _Malformed(f"GGUF version {version}, known are 2 and 3")
    if count > 65_536:
        raise _Malformed(f"{count} header fields")
    fields: dict[str, Any] = {}
    for _ in range(count):
        key = str(_string(file), "utf-8")
        (kind,) = struct.unpack("<I", _take(file, 4))
        fields[key] = _value(file, kind)
    return fields


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise _Malformed("the file ends inside its header")
    return data


def _string(file: BinaryIO) -> bytes:
    size = int.from_bytes(_take(file, 8), "little")
    if size > _MAX_STRING:
        raise _Malformed(f"a string of {size} bytes")
    return _take(file, size)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalars(file, kind, 1)[0]
    item_kind, count = struct.unpack("<IQ", _take(file, 12))
    if count > _MAX_ITEMS:
        raise _Malformed(f"an array of {count} items")
    if item_kind == _STRING:
        return [_string(file) for _ in range(count)]
    return _scalars(file, item_kind, count)


def _scalars(file: BinaryIO, kind: int, count: int) -> tuple[Any, ...]:
    if kind not in _SCALARS:
        raise _Malformed(f"a value of unknown type {kind}")
    layout = f"<{count}{_SCALARS[kind]}"
    return struct.unpack(layout, _take(file, struct.calcsize(layout)))
