"""weights/gguf.py: a model file's header, read with suspicion."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import ConfigError
from steelyard.weights.gguf import load_gguf_header


def text(value: bytes) -> bytes:
    """A GGUF string."""
    return struct.pack("<Q", len(value)) + value


def gguf(fields: dict[bytes, tuple[int, bytes]], version: int = 3) -> bytes:
    """A GGUF header of these fields, each a type and its bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(fields))
    return head + b"".join(text(key) + struct.pack("<I", kind) + value for key, (kind, value) in fields.items())


def array(kind: int, items: list[bytes]) -> tuple[int, bytes]:
    """A GGUF array of items that are encoded already."""
    return 9, struct.pack("<IQ", kind, len(items)) + b"".join(items)


def header_of(tokens: list[bytes], merges: list[bytes], template: bytes = b"{{ x }}") -> bytes:
    """A small model's header."""
    return gguf(
        {
            b"general.architecture": (8, text(b"llama")),
            b"general.name": (8, text(b"Toy")),
            b"general.file_type": (4, struct.pack("<I", 3)),
            b"llama.context_length": (4, struct.pack("<I", 128)),
            b"llama.embedding_length": (10, struct.pack("<Q", 16)),
            b"tokenizer.ggml.model": (8, text(b"gpt2")),
            b"tokenizer.ggml.tokens": array(8, [text(token) for token in tokens]),
            b"tokenizer.ggml.token_type": array(5, [struct.pack("<i", 1)] * len(tokens)),
            b"tokenizer.ggml.merges": array(8, [text(merge) for merge in merges]),
            b"tokenizer.ggml.eos_token_id": (4, struct.pack("<I", 1)),
            b"tokenizer.chat_template": (8, text(template)),
            b"some.flag": (7, b"\x01"),
        }
    )


def load(tmp_path: Path, data: bytes) -> Any:
    """Write bytes and load them as a model's header."""
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return load_gguf_header(path)


def test_header_says_what_the_model_is(tmp_path: Path) -> None:
    """Name, quantisation, context, dimension, vocabulary and template."""
    header = load(tmp_path, header_of([b"a", b"b"], [b"a b"]))
    assert (header.name, header.quantisation, header.architecture) == ("Toy", "Q4_1", "llama")
    assert (header.context_tokens, header.embedding_dimension, header.eos_token_id) == (128, 16, 1)
    assert header.pieces == (b"a", b"b")
    assert header.template == "{{ x }}"


def test_tokenizer_hash_covers_all_that_decides_tokens(tmp_path: Path) -> None:
    """Other pieces, another order, other merges or other borders between the same bytes: another hash."""
    variants = [
        header_of([b"a", b"b"], [b"a b"]),
        header_of([b"b", b"a"], [b"a b"]),
        header_of([b"a", b"b"], [b"b a"]),
        header_of([b"a", b"b"], []),
        header_of([b"ab", b""], [b"a b"]),
    ]
    hashes = {load(tmp_path, data).tokenizer_hash for data in variants}
    assert len(hashes) == len(variants)
    again = load(tmp_path, header_of([b"a", b"b"], [b"a b"], b"another template"))
    assert again.tokenizer_hash in hashes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends inside"),
        (b"PK\x03\x04" + bytes(40), "does not begin with GGUF"),
        (gguf({}, version=9), "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "header fields"),
        (gguf({b"x": (99, b"")}), "unknown type 99"),
        (gguf({b"x": (8, struct.pack("<Q", 2**60))}), "a string of"),
        (gguf({b"x": (9, struct.pack("<IQ", 4, 2**50))}), "an array of"),
        (gguf({b"\xff": (7, b"\x01")}), "utf-8"),
        (header_of([b"a"], [])[:-20], "ends inside"),
    ],
)
def test_malformed_header_is_one_clear_line(tmp_path: Path, data: bytes, words: str) -> None:
    """Truncated, absurd or foreign files stop the start; nothing is allocated for a length that is a lie."""
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, data)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ConfigError, match=r"none\.gguf does not exist"):
        load_gguf_header(tmp_path / "none.gguf")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    """Noise anywhere in a good header gives a header or a ConfigError, never another failure."""
    data = bytearray(header_of([b"a", b"b"], [b"a b"]))
    data[at : at + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(bytes(data))
    try:
        load_gguf_header(path)
    except ConfigError:
        return
