"""What honest answers look like: for a manifest and a pair of engines, bounds on the expected scores in each stratum.

1. It is measured (`calibration.calibrate`), shipped as a blob, and named by its digest in every check that used it.
2. A stratum without a bound was not measured well enough: its tokens say nothing.
3. Bounds are integers, in parts per billion, so that everyone computes with the same numbers.

Law: docs/spec/checking.md, section 4.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage
from steelyard.verification.scores import SCORES, Clips, Regime, ScoredPosition, Strata, bin_of

PPB = 10**9
MAX_NULL_BYTES = 256 * 1024

_Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Bound = Annotated[int, msgspec.Meta(ge=1, le=PPB)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Null(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds, and where they come from.

    Attributes:
        manifest: SHA-256 of the manifest's bytes, hex. provider_engine, validator_engine: name and version of the
            engine that answered and of the one that replayed, e.g. ``llama.cpp 5678/avx2``; the order matters.
        families: what kinds of prompts were measured, sorted. answers, tokens: how many of them, in all.
        confidence_ppt: chance, in parts per trillion, that one bound is too low before `safety_bps` is applied.
        safety_bps: each measured bound was multiplied by this over 10,000.
        bounds_ppb: [score][regime][bin], None where not calibrated; scores as in `SCORES`, bins as by `strata`.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    manifest: _Hash
    provider_engine: _Text
    validator_engine: _Text
    families: tuple[_Text, ...]
    answers: _Count
    tokens: _Count
    confidence_ppt: Annotated[int, msgspec.Meta(ge=1)]
    safety_bps: Annotated[int, msgspec.Meta(ge=10_000)]
    clips: Clips
    strata: Strata
    bounds_ppb: tuple[tuple[tuple[_Bound | None, ...], ...], ...]

    def bound_ppb(self, score: int, regime: Regime, position: ScoredPosition) -> int | None:
        """Return the bound of a score (by its place in `SCORES`) of one token; None where it says nothing."""
        return self.bounds_ppb[score][regime][bin_of(self.strata, score, position)]


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Null)


def encode_null(null: Null) -> bytes:
    """Return its canonical JSON: sorted keys, no spaces, every field."""
    return _encoder.encode(null)


def null_digest(blob: bytes) -> bytes:
    """Return the 32-byte SHA-256 of its JSON: its name in checks and manifests."""
    return hashlib.sha256(blob).digest()


def decode_null(blob: bytes) -> Null:
    """Return what the untrusted bytes of a null say.

    Raises:
        BadMessage: too large, not JSON, an unknown field, a wrong shape or an impossible number; says which.
    """
    if len(blob) > MAX_NULL_BYTES:
        raise BadMessage(f"null of {len(blob)} bytes, the limit is {MAX_NULL_BYTES}")
    try:
        null = _decoder.decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"null is malformed: {error}") from error
    if not all(math.isfinite(clip) and clip > 0 for clip in (null.clips.margin, null.clips.gap)):
        raise BadMessage(f"null with clips {null.clips.margin} and {null.clips.gap}: they are above zero")
    for name, edges in (("lead", null.strata.lead), ("entropy", null.strata.entropy)):
        is_rising = all(low < high for low, high in pairwise(edges))
        if not is_rising or not all(map(math.isfinite, edges)):
            raise BadMessage(f"null with {name} edges {edges}: they must rise")
    if len(null.bounds_ppb) != len(SCORES):
        raise BadMessage(f"null of {len(null.bounds_ppb)} scores, {len(SCORES)} are needed: {', '.join(SCORES)}")
    for score, (name, regimes) in enumerate(zip(SCORES, null.bounds_ppb, strict=True)):
        size = null.strata.bins(score)
        if len(regimes) != len(Regime) or any(len(bins) != size for bins in regimes):
            raise BadMessage(f"null's bounds for {name}: {len(Regime)} regimes of {size} bins are needed")
    return null
