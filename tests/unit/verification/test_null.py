"""verification/null.py: the null as a blob."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from tests.verification_world import flat_null

from steelyard.errors import BadMessage
from steelyard.verification.null import decode_null, encode_null, null_digest


def _changed(**changes: Any) -> bytes:
    plain = msgspec.json.decode(encode_null(flat_null(5000)))
    return msgspec.json.encode(plain | changes)


def test_null_survives_its_json() -> None:
    """Decoded and encoded again it is the same bytes, and its digest is their SHA-256."""
    blob = encode_null(flat_null(5000))
    assert encode_null(decode_null(blob)) == blob
    assert decode_null(blob) == flat_null(5000)
    assert null_digest(blob) == hashlib.sha256(blob).digest()
    keys = list(msgspec.json.decode(blob))
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (b"", "malformed"),
        (b"\xff", "malformed"),
        (b" " * (256 * 1024 + 1), "limit"),
        (_changed(surprise=1), "surprise"),
        (_changed(version=2), "version"),
        (_changed(manifest="xyz"), "manifest"),
        (_changed(clips={"margin": 0.0, "gap": 1.0}), "above zero"),
        (_changed(strata={"lead": [2.0, 1.0], "entropy": []}), "must rise"),
        (_changed(strata={"lead": [1.0], "entropy": []}), "bins are needed"),
        (_changed(bounds_ppb=[[[1], [1]]]), "3 are needed"),
        (_changed(bounds_ppb=[[[1]]] * 3), "2 regimes"),
        (_changed(bounds_ppb=[[[0], [1]]] * 3), "bounds_ppb"),
        (_changed(bounds_ppb=[[[10**9 + 1], [1]]] * 3), "bounds_ppb"),
        (_changed(bounds_ppb=[[[0.5], [1]]] * 3), "bounds_ppb"),
    ],
)
def test_malformed_null_is_refused_with_the_reason(blob: bytes, says: str) -> None:
    """Whoever fetched a null from a blob store is told what is wrong with it."""
    with pytest.raises(BadMessage, match=says):
        decode_null(blob)
