"""services/text.py: whole characters, and stop sequences that never leak."""

from __future__ import annotations

import pytest

from steelyard.services.text import TextAssembler, spell


def pieces_of(text: str) -> list[bytes]:
    """One piece per byte: the worst that a tokenizer can do."""
    return [bytes([byte]) for byte in text.encode()]


def test_text_in_single_bytes_is_shown_by_whole_characters() -> None:
    """Each shown piece is valid text, and nothing is lost."""
    assembler = TextAssembler()
    shown = [assembler.push(piece) for piece in pieces_of("aß🦄e")]
    assert [text for text in shown if text] == ["a", "ß", "🦄", "e"]
    assert assembler.finish() == ""


def test_text_with_broken_bytes_shows_replacements_and_goes_on() -> None:
    """Bytes that are no UTF-8 become U+FFFD; an unfinished character at the end is left out."""
    assert spell([b"a\xffb", b"\xf0\x9f"])[0] == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("hello STOP world", ["STOP"], "hello "),
        ("hello STO", ["STOP"], "hello STO"),
        ("aaab", ["aab"], "a"),
        ("one two three", ["three", "two"], "one "),
        ("xabcd", ["abcd", "bc"], "xa"),
        ("xab", ["ab", "b"], "x"),
        ("no stop here", [], "no stop here"),
        ("🦄🌈", ["🌈"], "🦄"),
        ("STOP", ["STOP"], ""),
    ],
)
def test_text_ends_before_the_stop_sequence_however_it_was_cut(text: str, stops: list[str], expected: str) -> None:
    """Byte by byte, in one piece, or in threes: the same text comes out."""
    raw = text.encode()
    for size in (1, 2, 3, len(raw)):
        assert spell([raw[at : at + size] for at in range(0, len(raw), size)], stops)[0] == expected


def test_stop_sequence_is_held_back_until_it_is_decided() -> None:
    """No beginning of a stop sequence is shown while it may still become one."""
    assembler = TextAssembler(["END"])
    assert assembler.push(b"xE") == "x"
    assert assembler.push(b"N") == ""
    assert assembler.push(b"Q") == "ENQ"
    assert assembler.push(b"EN") == ""
    assert assembler.push(b"D and more") == ""
    assert assembler.is_stopped
    assert assembler.push(b"later") == ""
    assert assembler.finish() == ""


def test_spelling_counts_the_tokens_up_to_the_stop() -> None:
    """Tokens after a stop sequence were never sampled by an honest provider: the count shows them."""
    assert spell([b"a", b"b", b"c", b"d"], ["bc"]) == ("a", 3)
