"""The form of a user's request: its bytes as they were sent, with holes where its texts, names and seed were.

1. Spaces, order of fields, ways to write a number: all of it stays, for a provider sees the bytes. What a hole is
   filled with is written as the client writes: escaped to ASCII, or not.
2. Of a person's texts nothing is kept but their lengths. A system message is an app's, not a person's, once it came in
   `APP_CALLS` checked calls; then it stays. Before that, and where a request carries other texts of its own (tools,
   schemas, long strings), no form is learned.
3. Names (`user`, `metadata` …) are made up anew for each conversation, of the same shape.

Law: docs/spec/validator.md, section 4.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import msgspec

MAX_BODY_BYTES = 256 * 1024
MAX_FORM_BYTES = 16 * 1024
MAX_VALUE_CHARS = 64
MAX_DEPTH = 12
APP_CALLS = 5
"""A system message that so many checked calls had is an app's."""

_SCALAR = re.compile(r"[^\s,\]}]+")
_SPACE = re.compile(r"\s*")
_NAMES = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
_PLAIN = frozenset({"prompt", "input", "suffix"})
_SYSTEM = ("system", "developer")
_TEXT, _NAME, _SEED = "text", "name", "seed"

_Path = tuple[str | int, ...]


class Hole(msgspec.Struct, frozen=True):
    """Something to be filled in: of which sort, how long it was, and for a name its shape."""

    sort: str
    length: int = 0
    shape: str = ""


Piece = str | Hole


class Form(msgspec.Struct, frozen=True):
    """A request's form: its bytes in pieces, some of them holes.

    Attributes:
        turns: how many answers it sends back, i.e. which call of a conversation it is.
        kind: the same for all calls of an app with the same settings.
        is_ascii: other characters are escaped.
    """

    pieces: tuple[Piece, ...]
    turns: int
    kind: int
    is_ascii: bool

    def write(self, said: Sequence[str], names: Sequence[str], source: random.Random) -> bytes:
        """Return the body of a call.

        Args:
            said: a text for each of `holes`: questions and answers in turn. names: for each of `names`, in order.
        """
        texts, called, out = iter(said), iter(names), []
        for piece in self.pieces:
            if isinstance(piece, str):
                out.append(piece)
            elif piece.sort == _SEED:
                least = 10 ** (piece.length - 1) if piece.length > 1 else 0
                out.append(str(source.randrange(least, 10**piece.length)))
            else:
                text = next(texts) if piece.sort == _TEXT else next(called)
                out.append(json.dumps(text, ensure_ascii=self.is_ascii))
        return "".join(out).encode()

    @property
    def holes(self) -> list[Hole]:
        """Where texts stood, in order."""
        return [piece for piece in self.pieces if isinstance(piece, Hole) and piece.sort == _TEXT]

    @property
    def names(self) -> list[Hole]:
        """Where names stood, in order."""
        return [piece for piece in self.pieces if isinstance(piece, Hole) and piece.sort == _NAME]


def read_form(body: bytes, is_app: Callable[[str], bool]) -> Form | None:
    """Return the form of a request, or None for one whose form can't be had without its texts.

    Args:
        body: as the client sent it; untrusted. is_app: whether a system message is known to be an app's.
    """
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        text = body.decode()
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    leaves: list[tuple[_Path, int, int, Any]] = []
    spans: dict[_Path, tuple[int, int]] = {}
    try:
        _walk(text, 0, (), leaves, spans)
        found = [(start, end, _hole(path, value, fields, is_app)) for path, start, end, value in leaves]
    except _NoForm:
        return None
    cuts = [(start, end, hole) for start, end, hole in found if hole is not None]
    messages = fields.get("messages")
    roles = [message.get("role") for message in messages] if isinstance(messages, list) else []
    turns = roles.count("assistant")
    said = [role for role in roles if role not in _SYSTEM]
    if roles and (roles[len(roles) - len(said) :] != said or said != ["user", "assistant"] * turns + ["user"]):
        return None
    form = _cut(text, cuts, [spans["messages", index] for index in range(len(roles))], turns)
    is_whole = len(form.holes) == len(said) if roles else bool(form.holes)
    is_small = sum(len(piece) for piece in form.pieces if isinstance(piece, str)) <= MAX_FORM_BYTES
    return form if is_whole and is_small else None


def made_up(shape: str, source: random.Random) -> str:
    """Return another name of the same shape: digits for digits, letters for letters, hexadecimal stays so."""
    is_hex = all(char in string.hexdigits or char in "-_" for char in shape)
    low, high = ("abcdef", "ABCDEF") if is_hex else (string.ascii_lowercase, string.ascii_uppercase)

    def other(char: str) -> str:
        for letters in (string.digits, low, high):
            if char in letters:
                return source.choice(letters)
        return char

    return "".join(map(other, shape))


class _NoForm(Exception):
    pass


def _walk(
    text: str, at: int, path: _Path, leaves: list[tuple[_Path, int, int, Any]], spans: dict[_Path, tuple[int, int]]
) -> int:
    """Note where each value of a valid JSON text begins and ends; return where this one does."""
    if len(path) > MAX_DEPTH:
        raise _NoForm
    begin = at = _end(_SPACE, text, at)
    if text[at] == '"':
        value, end = scanstring(text, at + 1)
        leaves.append((path, at, end, value))
        return int(end)
    if text[at] not in "{[":
        end = _end(_SCALAR, text, at)
        leaves.append((path, at, end, json.loads(text[at:end])))
        return end
    is_object, index = text[at] == "{", 0
    at = _end(_SPACE, text, at + 1)
    while text[at] not in "}]":
        at = _end(_SPACE, text, at + 1) if text[at] == "," else at
        key: str | int = index
        if is_object:
            key, at = scanstring(text, at + 1)
            at = _end(_SPACE, text, at) + 1  # the colon
        at = _end(_SPACE, text, _walk(text, at, (*path, key), leaves, spans))
        index += 1
    spans[path] = begin, at + 1
    return at + 1


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _hole(path: _Path, value: Any, fields: dict[str, Any], is_app: Callable[[str], bool]) -> Hole | None:
    """What to make of one value: a hole, or None to keep it; raises _NoForm where it can't be kept."""
    name = path[0] if path else ""
    if name == "messages":
        return _hole_of_message(path, value, fields, is_app)
    if name in _PLAIN and isinstance(value, str):
        return Hole(_TEXT, len(value))
    if name == "seed" and isinstance(value, int) and not isinstance(value, bool):
        return Hole(_SEED, len(str(abs(value))))
    if name in _NAMES and isinstance(value, str):
        return Hole(_NAME, len(value), made_up(value, random.Random()))  # noqa: S311  # the real name is not kept
    if isinstance(value, str) and (len(value) > MAX_VALUE_CHARS or name in ("tools", "functions", "response_format")):
        raise _NoForm
    return None


def _hole_of_message(path: _Path, value: Any, fields: dict[str, Any], is_app: Callable[[str], bool]) -> Hole | None:
    if len(path) < 3 or not isinstance(path[2], str) or path[2] not in ("role", "content", "name"):
        raise _NoForm  # tool calls and the like
    role = fields["messages"][path[1]].get("role")
    if path[2] == "role" or path[-1] == "type":
        return None
    if not isinstance(value, str) or path[-1] not in ("content", "text", "name"):
        raise _NoForm
    if path[2] == "name":
        return Hole(_NAME, len(value), made_up(value, random.Random()))  # noqa: S311
    if role in _SYSTEM:
        if is_app(value):
            return None
        raise _NoForm
    return Hole(_TEXT, len(value))


def _cut(text: str, cuts: Sequence[tuple[int, int, Hole]], spans: Sequence[tuple[int, int]], turns: int) -> Form:
    def part(begin: int, end: int) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        for start, stop, hole in cuts:
            if begin <= start and stop <= end:
                pieces += [text[begin:start], hole]
                begin = stop
        return (*pieces, text[begin:end])

    opening = spans[: len(spans) - 2 * turns]  # what a conversation of this kind begins with
    outside = [(0, opening[-1][1]), (spans[-1][1], len(text))] if spans else [(0, len(text))]
    kind = hash(tuple(piece for side in outside for piece in part(*side) if isinstance(piece, str)))
    is_ascii = text.isascii() and ("\\u" in text or ('": ' in text and "\n" not in text))
    return Form(part(0, len(text)), turns, kind, is_ascii)
