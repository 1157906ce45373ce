"""What a chat answer carries so that someone else can check it: its tokens, their log-probabilities, and the
likeliest five; and what a replay finds of each.

1. A row is 36 bytes: token id, its log-probability, then five (id, log-probability) of the likeliest candidates.
2. Log-probabilities are 16-bit: the nats below zero in steps of 1/2048, 65535 for 32 nats and more, or for "not among
   them".
3. A replay adds three float32 a row, all from its own candidates: margin, entropy and lead.
4. Where a claim breaks a rule that no honest one breaks, the replay is that breach's name instead.
5. Claims and replays are untrusted bytes: every length and number is checked before it is used.

Law: docs/spec/kinds/chat.md, section 5.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import msgspec

from steelyard.engines.port import TOP_CANDIDATES, Candidates
from steelyard.errors import BadMessage
from steelyard.protocol.sampler import MARGIN_CLIP
from steelyard.services.port import Comparison, Score

CLAIM_TAG = b"SYC1"
REPLAY_TAG = b"SYR1"
BREACH_TAG = b"SYB1"
RELAY_TAG = b"SYT1"

MALFORMED = "evidence_malformed"
NOT_IN_MODEL = "evidence_token"
AFTER_END = "evidence_after_end"
SPELLING = "evidence_spelling"
BILL = "evidence_bill"
FINISH = "evidence_finish"
LENGTH = "evidence_length"
BREACHES = {
    MALFORMED: "the evidence can't be read",
    NOT_IN_MODEL: "the evidence names a token that the model doesn't have",
    AFTER_END: "the claimed tokens go on after the end of the answer",
    SPELLING: "the claimed tokens do not spell the answer",
    BILL: "the answer's tokens are not those that were billed",
    FINISH: "the finish reason does not fit the claimed tokens",
    LENGTH: "the answer has more tokens than the request or the context allows",
}
"""What no honest provider's evidence is, by stable code; each is a reason to fail it."""

ROW_BYTES = 36
TOP = 5
NO_TOKEN = 0xFFFFFFFF
FLOOR = 0xFFFF
STEPS_PER_NAT = 2048
DISTANCE_CLIP = 8.0
"""The most, in nats, that one position adds to the log-probability distance."""

_HEAD = struct.Struct(">4sII")
_ROW = struct.Struct(">IH" + "IH" * TOP)
_FOUND = struct.Struct(">fff")
_MOST_ENTROPY = math.log(TOP_CANDIDATES)
_PADDING = (NO_TOKEN, FLOOR)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One position: the token, its log-probability in steps, and the likeliest candidates in the same form."""

    token_id: int
    steps: int
    top: tuple[tuple[int, int], ...]


class Finding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a replay's own candidates say of one position, in nats; see `services.port.Score`."""

    margin: float
    entropy: float
    lead: float


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Evidence, read: how many tokens the prompt had, one row per sampled token, and of a replay one finding per
    row.
    """

    prompt_tokens: int
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()


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


def encode_replay(prompt_tokens: int, rows: bytes, findings: Sequence[Finding]) -> bytes:
    """Return the blob of a replay: rows as in a claim, then one finding per row."""
    found = b"".join(_FOUND.pack(finding.margin, finding.entropy, finding.lead) for finding in findings)
    return _HEAD.pack(REPLAY_TAG, prompt_tokens, len(findings)) + rows + found


def encode_breach(code: str) -> bytes:
    """Return the blob of a replay that found a claim in breach of a rule; `code` is one of `BREACHES`."""
    return BREACH_TAG + code.encode()


def count_rows(blob: bytes) -> int:
    """Return how many rows a claim (untrusted) has room for; never raises."""
    return max(0, (len(blob) - _HEAD.size) // ROW_BYTES)


def entropy(logprobs: Sequence[float]) -> float:
    """Return the entropy in nats of a model's distribution over its candidates, scaled to add up to one."""
    top = max(logprobs)
    weights = [math.exp(logprob - top) for logprob in logprobs]
    total = math.fsum(weights)
    return max(0.0, math.log(total) - math.fsum(w * (x - top) for w, x in zip(weights, logprobs, strict=True)) / total)


def decode_claim(blob: bytes, tag: bytes = CLAIM_TAG) -> Claim:
    """Return what an evidence blob says.

    Raises:
        BadMessage: a wrong tag, a length that does not fit its count, or of a replay a number out of its range; says
            which.
    """
    if len(blob) < _HEAD.size:
        raise _malformed(f"chat evidence of {len(blob)} bytes is shorter than its head of {_HEAD.size}")
    found, prompt_tokens, count = _HEAD.unpack_from(blob)
    if found != tag:
        raise _malformed(f"chat evidence begins with {found!r}, expected {tag!r}")
    row_bytes = ROW_BYTES + (_FOUND.size if tag == REPLAY_TAG else 0)
    if len(blob) != _HEAD.size + count * row_bytes:
        raise _malformed(f"chat evidence of {count} rows has {len(blob)} bytes, not {_HEAD.size + count * row_bytes}")
    end = _HEAD.size + count * ROW_BYTES
    rows = tuple(
        Row(cells[0], cells[1], tuple(zip(cells[2::2], cells[3::2], strict=True)))
        for cells in _ROW.iter_unpack(blob[_HEAD.size : end])
    )
    findings = tuple(Finding(*numbers) for numbers in _FOUND.iter_unpack(blob[end:]))
    for finding in findings:
        # written so that a not-a-number fails it
        if not (0 <= finding.margin <= MARGIN_CLIP and 0 <= finding.lead <= MARGIN_CLIP):
            raise _malformed(f"a replay's margin is {finding.margin}, its lead {finding.lead}: 0 to {MARGIN_CLIP:.0f}")
        if not 0 <= finding.entropy <= _MOST_ENTROPY + 1e-3:
            raise _malformed(f"a replay's entropy is {finding.entropy}: 0 to {_MOST_ENTROPY:.2f}")
    return Claim(prompt_tokens, rows, findings)


def compare_rows(claimed: bytes, replayed: bytes) -> Comparison:
    """Return the distance in nats per token: mean log-probability difference plus mean margin; never raises on bad
    claims.

    Args:
        claimed: a claim; untrusted.
        replayed: the blob of a replay that was forced along the same tokens.

    Raises:
        BadMessage: the replay is malformed.
    """
    if replayed.startswith(BREACH_TAG):
        code = replayed[len(BREACH_TAG) :].decode("ascii", "replace")
        if code not in BREACHES:
            raise _malformed(f"a replay names the breach {code[:40]!r}, which isn't one")
        return breach(code)
    replay = decode_claim(replayed, REPLAY_TAG)
    try:
        claim = decode_claim(claimed)
    except BadMessage as error:
        return breach(MALFORMED, error.message)
    if [row.token_id for row in claim.rows] != [row.token_id for row in replay.rows]:
        return breach(SPELLING, "claim and replay differ in their tokens")
    scores = tuple(
        Score(
            finding.margin == 0.0,
            finding.margin,
            logprob_gap(mine, theirs),
            finding.entropy,
            finding.lead,
        )
        for mine, finding, theirs in zip(replay.rows, replay.findings, claim.rows, strict=True)
    )
    count = len(scores)
    if not count:
        return Comparison(is_wellformed=True, distance=0.0, positions=0, reason="the answer has no tokens")
    distance = sum(score.gap for score in scores) / count + sum(score.margin for score in scores) / count
    return Comparison(is_wellformed=True, distance=distance, positions=count, scores=scores)


def logprob_gap(mine: Row, theirs: Row) -> float:
    """Return how far two rows' log-probabilities of one token lie apart, in nats up to `DISTANCE_CLIP`."""
    return min(DISTANCE_CLIP, abs(mine.steps - theirs.steps) / STEPS_PER_NAT)


def breach(code: str, reason: str = "") -> Comparison:
    """Return what is said of a claim that breaks a rule; `code` is one of `BREACHES`."""
    return Comparison(is_wellformed=False, distance=0.0, positions=0, reason=reason or BREACHES[code], code=code)


def _malformed(reason: str) -> BadMessage:
    return BadMessage(reason, code=MALFORMED)


def _steps(nats: float) -> int:
    return min(FLOOR, max(0, round(nats * STEPS_PER_NAT)))
