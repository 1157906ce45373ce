"""Text as it grows: bytes of tokens become whole characters, and stop sequences never leak.

1. A character is shown when its last byte is there. Bytes that are no UTF-8 are shown as U+FFFD; an unfinished
   character at the very end is left out.
2. Text that may be the beginning of a stop sequence is held back until that is decided. The stop sequence that is
   complete first (of several, the longest) ends the text before itself, however the text was cut into tokens.
3. The same rule spells an answer and checks that claimed tokens spell it: `spell`.

Law: docs/spec/kinds/chat.md, section 3.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

_utf8 = codecs.getincrementaldecoder("utf-8")


class TextAssembler:
    """Joins the bytes of tokens into text that may be shown."""

    __slots__ = ("_decoder", "_stops", "_text", "is_stopped", "shown", "total")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = _utf8("replace")
        self._stops = tuple(stops)
        self._text = ""  # decoded and not yet shown
        self.shown = 0
        """Characters shown so far."""
        self.total = 0
        """Characters decoded so far, shown or held back."""
        self.is_stopped = False

    def push(self, data: bytes) -> str:
        """Take the bytes of one more token and return the text that may now be shown."""
        text = self._decoder.decode(data)
        if self.is_stopped or not text:
            return ""
        self.total += len(text)
        self._text += text
        cut = self._first_stop()
        if cut is not None:
            self.is_stopped = True
            self.total -= len(self._text) - cut
            self._text = self._text[:cut]
            return self._show(cut)
        return self._show(len(self._text) - self._held())

    def finish(self) -> str:
        """Return what was held back, now that nothing more comes."""
        return "" if self.is_stopped else self._show(len(self._text))

    def _show(self, count: int) -> str:
        text, self._text = self._text[:count], self._text[count:]
        self.shown += count
        return text

    def _first_stop(self) -> int | None:
        # Held-back text always contains the beginning of a stop sequence that is still open, so this looks far enough
        # back.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _held(self) -> int:
        """How many characters at the end may be the beginning of a stop sequence."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._text)), longest, -1):
                if self._text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


def spell(pieces: Iterable[bytes], stops: Sequence[str] = ()) -> tuple[str, int]:
    """Return the text that the bytes of tokens spell, and how many tokens it took until a stop sequence (or all)."""
    assembler = TextAssembler(stops)
    text: list[str] = []
    used = 0
    for piece in pieces:
        text.append(assembler.push(piece))
        used += 1
        if assembler.is_stopped:
            break
    text.append(assembler.finish())
    return "".join(text), used
