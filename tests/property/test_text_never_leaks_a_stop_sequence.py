"""Whatever the text, the stop sequences and the cuts: what is shown is the text up to the first stop sequence, no
more, no less.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from steelyard.services.text import TextAssembler

_letters = st.text(alphabet="ab🦄ß", max_size=24)
_stops = st.lists(st.text(alphabet="ab🦄ß", min_size=1, max_size=4), max_size=4)


def _expected(text: str, stops: list[str]) -> str:
    """The rule, letter by letter: the stop sequence that is complete first ends the text; of several, the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))]
    return text


@given(_letters, _stops, st.lists(st.integers(0, 96), max_size=12))
def test_shown_text_is_the_text_up_to_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    """Cut anywhere, inside characters too, the assembler shows exactly what the rule says and never takes it back."""
    raw = text.encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    expected = _expected(text, stops)
    assembler, shown = TextAssembler(stops), ""
    for start, end in pairwise(edges):
        shown += assembler.push(raw[start:end])
        assert expected.startswith(shown)
    assert shown + assembler.finish() == expected
    assert assembler.is_stopped == (expected != text or any(stop and text.endswith(stop) for stop in stops))
