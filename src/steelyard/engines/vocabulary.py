"""Vocabularies: which bytes a token spells, and which tokens end an answer, read from a model's own header.

1. A control token spells nothing. Byte-level pieces (GPT-2's alphabet), SentencePiece's and raw bytes are turned back
   into the bytes that they stand for, so that the pieces of an answer, joined, are its text.
2. The same table serves whoever makes an answer and whoever checks that its tokens spell it.
"""

from __future__ import annotations

from steelyard.errors import ConfigError
from steelyard.weights.gguf import BYTE_TYPE, CONTROL_TYPES, USER_DEFINED_TYPE, GgufHeader

# Control tokens that end an answer in one chat format or another, beside the one that the header names.
_END_PIECES = frozenset(
    b"<|im_end|> <|endoftext|> <|eot_id|> <|eom_id|> <|end|> <|end_of_text|> <end_of_turn> <|eot|> <|return|> <|call|> "
    b"</s> <|end_of_turn|> <|endofprompt|> <EOT> <turn|>".split()
)


class Vocabulary:
    """What each token of a model spells, by id."""

    __slots__ = ("_ends", "_spelled", "longest_bytes")

    def __init__(self, header: GgufHeader) -> None:
        """Build the table.

        Raises:
            ConfigError: a tokenizer of a sort that we can't spell.
        """
        spell = {"gpt2": _spell_byte_level, "llama": _spell_sentencepiece}.get(header.tokenizer_model)
        if spell is None:
            raise ConfigError(
                f"tokenizer {header.tokenizer_model!r} of {header.name or 'this model'} is not supported for text, "
                "known are 'gpt2' and 'llama'"
            )
        self._spelled = tuple(
            b"" if kind in CONTROL_TYPES else piece if kind == USER_DEFINED_TYPE else spell(piece, kind)
            for piece, kind in zip(header.pieces, header.piece_types, strict=True)
        )
        self._ends = frozenset(
            token_id
            for token_id, (piece, kind) in enumerate(zip(header.pieces, header.piece_types, strict=True))
            if token_id == header.eos_token_id or (kind in CONTROL_TYPES and piece in _END_PIECES)
        )
        self.longest_bytes = max((len(text) for text in self._spelled), default=0)

    def __len__(self) -> int:
        return len(self._spelled)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token spells; b"" for control tokens and for ids outside the vocabulary
        (untrusted).
        """
        return self._spelled[token_id] if 0 <= token_id < len(self._spelled) else b""

    def is_end(self, token_id: int) -> bool:
        """Tell whether a token ends the answer."""
        return token_id in self._ends


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _spell_byte_level(piece: bytes, kind: int) -> bytes:
    text = piece.decode("utf-8", "replace")
    try:
        return bytes(_ALPHABET[char] for char in text)
    except KeyError:  # a piece that was never byte-encoded stands for itself
        return piece


def _spell_sentencepiece(piece: bytes, kind: int) -> bytes:
    if kind == BYTE_TYPE and len(piece) == 6:
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            return piece
    return piece.replace("▁".encode(), b" ")
