"""How far vectors lie from a checker's own: by direction (1 - cosine) and by their numbers (units in the last place).

1. A number's difference is counted in units of 2^-24, the spacing of float32 just below 1: the vectors have length 1,
   so their numbers are at most 1, and a relative count would blow up on those near 0.
2. Both are bounded by what honest machines differ by (`BOUNDS`), with a margin; a vector within both is a match.
3. A result is untrusted: its length is checked first, and numbers that are none count as far as can be.

Pure. Law: docs/spec/kinds/embeddings.md.  Measured by tests/integration/test_llama_embeddings.py.
"""

from __future__ import annotations

import math
import struct

import msgspec

from steelyard.errors import BadMessage
from steelyard.services.port import Comparison, FinishReason, Result, Score

REPLAY_TAG = b"SYW1"
ULP = 2.0**-24
MAX_ULPS = 2.0**25
"""Two numbers of unit vectors differ by at most 2."""


class Bounds(msgspec.Struct, frozen=True):
    """Within these an honest machine's vector lies of another's: 1 - cosine, and the greatest difference in ULPs."""

    cosine_gap: float
    ulps: float


BOUNDS = Bounds(1e-4, 2.0**16)
"""For replays on the manifest's own engine; measured in docs/spec/kinds/embeddings.md."""


def compare_vectors(result: Result, replayed: bytes, dimension: int) -> Comparison:
    """Return one score per vector (`margin`: 1 - cosine, `gap`: ULPs); the distance is the greatest 1 - cosine.

    Args:
        result: untrusted content. replayed: `REPLAY_TAG` and the replay's vectors. dimension: the manifest's.

    Raises:
        BadMessage: the replay is malformed.
    """
    size = dimension * 4
    mine, theirs = replayed[len(REPLAY_TAG) :], result.content
    if not replayed.startswith(REPLAY_TAG) or not size or len(mine) % size:
        raise BadMessage(f"{len(replayed)} bytes are no replay of vectors of {dimension}", code="evidence_malformed")
    if result.finish >= FinishReason.CANCELLED:
        mine = mine[: len(theirs)]  # a cut answer is compared as far as it came
    if len(theirs) != len(mine) or len(theirs) % size:
        return refuse_vectors(f"the result has {len(theirs)} bytes, the replay {len(mine)}")
    layout = struct.Struct(f"<{dimension}f")
    scores = tuple(
        _score(left, right) for left, right in zip(layout.iter_unpack(theirs), layout.iter_unpack(mine), strict=True)
    )
    distance = max((score.margin for score in scores), default=0.0)
    return Comparison(is_wellformed=True, distance=distance, positions=len(scores), scores=scores)


def refuse_vectors(reason: str) -> Comparison:
    """Return what is said of a result that can't be compared."""
    return Comparison(is_wellformed=False, distance=2.0, positions=0, reason=reason, code="evidence_malformed")


def _score(left: tuple[float, ...], right: tuple[float, ...]) -> Score:
    if not all(map(math.isfinite, left)):
        return Score(False, 2.0, MAX_ULPS)
    gap = _cosine_gap(left, right)
    ulps = min(MAX_ULPS, max(abs(a - b) for a, b in zip(left, right, strict=True)) / ULP)
    return Score(gap <= BOUNDS.cosine_gap and ulps <= BOUNDS.ulps, gap, ulps)


def _cosine_gap(left: tuple[float, ...], right: tuple[float, ...]) -> float:
    """1 - cosine, from 0 to 2; 2 where either has no direction."""
    dot = math.fsum(a * b for a, b in zip(left, right, strict=True))
    norms = math.sqrt(math.fsum(a * a for a in left) * math.fsum(b * b for b in right))
    return min(2.0, max(0.0, 1.0 - dot / norms)) if norms > 0 else 2.0
