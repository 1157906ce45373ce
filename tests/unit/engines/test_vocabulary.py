"""engines/vocabulary.py: the bytes that tokens spell, from a model's own header."""

from __future__ import annotations

import pytest

from steelyard.engines.vocabulary import Vocabulary
from steelyard.errors import ConfigError
from steelyard.weights.gguf import GgufHeader


def header(model: str, pieces: list[bytes], types: list[int], eos: int | None = None) -> GgufHeader:
    """A header with nothing but a vocabulary."""
    return GgufHeader(
        name="toy",
        architecture="llama",
        quantisation="F32",
        context_tokens=8,
        embedding_dimension=4,
        tokenizer_model=model,
        tokenizer_hash="",
        template="",
        template_hash="",
        pieces=tuple(pieces),
        piece_types=tuple(types),
        eos_token_id=eos,
    )


def test_byte_level_pieces_spell_their_bytes() -> None:
    """GPT-2's stand-ins for space, newline and high bytes are turned back; control tokens spell nothing."""
    pieces = ["Ġhello".encode(), "Ċ".encode(), "ðŁ".encode(), b"<|im_end|>", b"a", b"<tool>"]
    words = Vocabulary(header("gpt2", pieces, [1, 1, 1, 3, 1, 4]))
    assert [words.token_bytes(i) for i in range(6)] == [b" hello", b"\n", b"\xf0\x9f", b"", b"a", b"<tool>"]
    assert words.longest_bytes == 6


def test_sentencepiece_pieces_spell_their_text() -> None:
    """The lower bar is a space, and byte pieces are bytes."""
    pieces = ["▁the".encode(), b"<0x0A>", b"</s>", b"a", b"<0xZZ>"]
    words = Vocabulary(header("llama", pieces, [1, 6, 3, 1, 6]))
    assert [words.token_bytes(i) for i in range(5)] == [b" the", b"\n", b"", b"a", b"<0xZZ>"]


def test_ends_are_the_headers_own_and_the_known_control_tokens() -> None:
    """A text token that looks like one ends nothing."""
    words = Vocabulary(header("gpt2", [b"<|im_end|>", b"<|im_end|>", b"x", b"<|endoftext|>"], [3, 1, 1, 3], eos=2))
    assert [words.is_end(i) for i in range(4)] == [True, False, True, True]


def test_ids_outside_the_vocabulary_spell_nothing() -> None:
    """Claimed token ids are untrusted: none of them raises."""
    words = Vocabulary(header("gpt2", [b"a"], [1]))
    assert words.token_bytes(-1) == words.token_bytes(1) == words.token_bytes(2**32) == b""
    assert not words.is_end(2**32)


def test_unknown_tokenizer_stops_the_start() -> None:
    """What we can't spell we don't sell."""
    with pytest.raises(ConfigError, match="'bert'"):
        Vocabulary(header("bert", [b"a"], [1]))
