"""Comparing answers as JSON values: the provider's with a checker's own, item by item.

1. Values are compared after decoding: order of members and spacing don't matter, numbers and text do. Hexadecimal is
   compared without regard to case, since nodes write addresses both ways.
2. An answer of null, or an error, on either side says nothing: a node may lag, prune or word it otherwise. Such an item
   is not scored.
3. Of three answers by three providers the one that differs is the odd one, if the two others agree.
4. A claim is untrusted: its answers must be as many as the replay's, with the same ids in the same order.

Pure. Law: docs/spec/kinds/rpc.md, section 5.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from steelyard.errors import BadMessage
from steelyard.services.port import Comparison, FinishReason, Result, Score

REPLAY_TAG = b"SYJ1"
_HEAD = struct.Struct(">4sQ")
_HEX = re.compile(r"0[xX][0-9a-fA-F]*")


class Answer(msgspec.Struct, frozen=True, gc=False):
    """One answer: its id as JSON, and what it says; `is_silent` if it is an error or null."""

    id_raw: bytes
    value: Any
    is_silent: bool


class _Response(msgspec.Struct):
    id: msgspec.Raw
    result: Any = None
    error: Any = None


_decode_one = msgspec.json.Decoder(_Response).decode
_decode_many = msgspec.json.Decoder(list[_Response]).decode


def read_answers(content: bytes) -> list[Answer]:
    """Return the answers in a whole content, in their order; raises ValueError unless it is JSON-RPC's."""
    if not content:
        return []
    try:
        found = _decode_many(content) if content[:1] == b"[" else [_decode_one(content)]
        return [Answer(bytes(one.id), _canonical(one.result), one.result is None) for one in found]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the answer is no JSON-RPC: {error}") from error


def pack_replay(units_in: int, content: bytes) -> bytes:
    """Return a replay: what had to be billed, and this machine's own answer."""
    return _HEAD.pack(REPLAY_TAG, units_in) + content


def compare_answers(result: Result, claimed: bytes, replayed: bytes) -> Comparison:
    """Return one score per item that both sides answered; the distance is the share of those that differ.

    Raises:
        BadMessage: the replay is malformed.
    """
    if len(replayed) < _HEAD.size or not replayed.startswith(REPLAY_TAG):
        raise BadMessage(f"{len(replayed)} bytes are no replay of an rpc answer", code="evidence_malformed")
    _, units_in = _HEAD.unpack_from(replayed)
    try:
        mine = read_answers(replayed[_HEAD.size :])
    except ValueError as error:
        raise BadMessage(str(error), code="evidence_malformed") from error
    if claimed:
        return _malformed(f"an rpc answer has no evidence, {len(claimed)} bytes are claimed")
    if result.finish >= FinishReason.CANCELLED and not result.content:
        return Comparison(is_wellformed=True, distance=0.0, positions=0)
    if (result.units_in, result.units_out) != (units_in, 0):
        reason = f"{result.units_in} + {result.units_out} units were billed, the methods cost {units_in}"
        return _malformed(reason, "evidence_bill")
    try:
        theirs = read_answers(result.content)
    except ValueError as error:
        return _malformed(str(error))
    if [one.id_raw for one in theirs] != [one.id_raw for one in mine]:
        return _malformed("the answers' ids are not the requests'")
    pairs = [(a, b) for a, b in zip(theirs, mine, strict=True) if not (a.is_silent or b.is_silent)]
    scores = tuple(Score(a.value == b.value, float(a.value != b.value), 0.0) for a, b in pairs)
    wrong = [a.id_raw for (a, _), score in zip(pairs, scores, strict=True) if not score.is_match]
    reason = f"another answer than this machine's own node gives, id {wrong[0][:40]!r}" if wrong else ""
    distance = len(wrong) / len(scores) if scores else 0.0
    return Comparison(is_wellformed=True, distance=distance, positions=len(scores), reason=reason, scores=scores)


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What three answers to one request say together.

    `odd`: which of them differs where the two others agree, None: none does, or more than one. `agreed`, `differing`:
    how many items all three agree on, and how many they don't; silent ones are neither.
    """

    odd: int | None
    agreed: int
    differing: int


def find_odd(contents: Sequence[bytes]) -> Verdict:
    """Return which of three whole contents is the odd one out.

    Raises:
        ValueError: one is no JSON-RPC, or they don't answer the same items.
    """
    first, second, third = (read_answers(content) for content in contents)
    odd_ones: set[int | None] = set()
    agreed = differing = 0
    for answers in zip(first, second, third, strict=True):
        if any(answer.is_silent for answer in answers):
            continue
        a, b, c = (answer.value for answer in answers)
        if a == b == c:
            agreed += 1
            continue
        differing += 1
        odd_ones.add(2 if a == b else 1 if a == c else 0 if b == c else None)
    return Verdict(odd_ones.pop() if len(odd_ones) == 1 else None, agreed, differing)


def _malformed(reason: str, code: str = "evidence_malformed") -> Comparison:
    return Comparison(is_wellformed=False, distance=1.0, positions=0, reason=reason, code=code)


def _canonical(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower() if _HEX.fullmatch(value) else value
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return ("bool", value) if isinstance(value, bool) else value  # or else true would equal 1
