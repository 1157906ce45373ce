"""What a chat answer carries so that someone else can check it: its tokens, their log-probabilities, and the
likeliest five.

1. A row is 36 bytes: token id, its log-probability, then five (id, log-probability) of the likeliest candidates.
2. Log-probabilities are 16-bit: the nats below zero in steps of 1/2048, 65535 for 32 nats and more, or for "not among
   them".
3. A claim is untrusted bytes: every length is checked before anything is read, and a claim that is wrong is named so.

Law: docs/spec/kinds/chat.md, section 5.
"""

from __future__ import annotations

import struct

import msgspec

from steelyard.engines.port import Candidates
from steelyard.errors import BadMessage
from steelyard.services.port import Comparison

CLAIM_TAG = b"SYC1"
REPLAY_TAG = b"SYR1"
RELAY_TAG = b"SYT1"
ROW_BYTES = 36
TOP = 5
NO_TOKEN = 0xFFFFFFFF
FLOOR = 0xFFFF
STEPS_PER_NAT = 2048
DISTANCE_CLIP = 8.0
"""The most, in nats, that one position adds to the log-probability distance."""

_HEAD = struct.Struct(">4sII")
_ROW = struct.Struct(">IH" + "IH" * TOP)
_PADDING = (NO_TOKEN, FLOOR)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One position: the token, its log-probability in steps, and the likeliest candidates in the same form."""

    token_id: int
    steps: int
    top: tuple[tuple[int, int], ...]


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Evidence, read: how many tokens the prompt had, one row per sampled token, and of a replay one margin per row."""

    prompt_tokens: int
    rows: tuple[Row, ...]
    margins: tuple[float, ...] = ()


def encode_row(candidates: Candidates, token_id: int) -> bytes:
    """Return the row of a token among the candidates of its position; a token that is not among them gets the floor."""
    ranked = sorted(zip((-logprob for logprob in candidates.logprobs), candidates.ids, strict=True))
    steps = next((_steps(nats) for nats, candidate in ranked if candidate == token_id), FLOOR)
    cells = [cell for nats, candidate in ranked[:TOP] for cell in (candidate, _steps(nats))]
    cells += _PADDING * (TOP - len(cells) // 2)
    return _ROW.pack(token_id, steps, *cells)


def encode_claim(prompt_tokens: int, rows: bytes) -> bytes:
    """Return the evidence blob of an answer from its rows, joined."""
    return _HEAD.pack(CLAIM_TAG, prompt_tokens, len(rows) // ROW_BYTES) + rows


def encode_replay(prompt_tokens: int, rows: bytes, margins: list[float]) -> bytes:
    """Return the blob of a replay: rows as in a claim, then one float32 margin per row."""
    return _HEAD.pack(REPLAY_TAG, prompt_tokens, len(margins)) + rows + struct.pack(f">{len(margins)}f", *margins)


def decode_claim(blob: bytes, tag: bytes = CLAIM_TAG) -> Claim:
    """Return what an evidence blob says.

    Raises:
        BadMessage: a wrong tag or a length that does not fit its count; says which.
    """
    if len(blob) < _HEAD.size:
        raise BadMessage(f"chat evidence of {len(blob)} bytes is shorter than its head of {_HEAD.size}")
    found, prompt_tokens, count = _HEAD.unpack_from(blob)
    if found != tag:
        raise BadMessage(f"chat evidence begins with {found!r}, expected {tag!r}")
    row_bytes = ROW_BYTES + (4 if tag == REPLAY_TAG else 0)
    if len(blob) != _HEAD.size + count * row_bytes:
        raise BadMessage(f"chat evidence of {count} rows has {len(blob)} bytes, not {_HEAD.size + count * row_bytes}")
    end = _HEAD.size + count * ROW_BYTES
    rows = tuple(
        Row(cells[0], cells[1], tuple(zip(cells[2::2], cells[3::2], strict=True)))
        for cells in _ROW.iter_unpack(blob[_HEAD.size : end])
    )
    margins = struct.unpack(f">{count}f", blob[end:]) if tag == REPLAY_TAG else ()
    return Claim(prompt_tokens, rows, margins)


def compare_rows(claimed: bytes, replayed: bytes) -> Comparison:
    """Return the distance in nats per token: mean log-probability difference plus mean margin; never raises on bad
    claims.

    Args:
        claimed: a claim; untrusted.
        replayed: the blob of a replay that was forced along the same tokens; trusted.
    """
    replay = decode_claim(replayed, REPLAY_TAG)
    try:
        claim = decode_claim(claimed)
    except BadMessage as error:
        return Comparison(is_wellformed=False, distance=0.0, positions=0, reason=error.message)
    if [row.token_id for row in claim.rows] != [row.token_id for row in replay.rows]:
        return Comparison(
            is_wellformed=False, distance=0.0, positions=0, reason="claim and replay differ in their tokens"
        )
    count = len(claim.rows)
    if not count:
        return Comparison(is_wellformed=True, distance=0.0, positions=0, reason="the answer has no tokens")
    gaps = (
        min(DISTANCE_CLIP, abs(mine.steps - theirs.steps) / STEPS_PER_NAT)
        for mine, theirs in zip(replay.rows, claim.rows, strict=True)
    )
    distance = sum(gaps) / count + sum(replay.margins) / count
    return Comparison(is_wellformed=True, distance=distance, positions=count)


def _steps(nats: float) -> int:
    return min(FLOOR, max(0, round(nats * STEPS_PER_NAT)))
