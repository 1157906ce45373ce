"""The blob of quality: the same numbers are the same bytes, and nothing else gets in."""

from __future__ import annotations

import msgspec
import pytest

from steelyard.errors import BadMessage, BadTotal
from steelyard.protocol.quality_blob import QualityEntry, decode_quality, encode_quality, quality_root
from steelyard.protocol.signing import Domain

DOMAIN = Domain(1, b"\x05" * 32)


def _entry(number: int, **changes: int) -> QualityEntry:
    values = {"passes_ppm": 10**6, "fails_ppm": 0, "quality_ppm": 95_238} | changes
    return QualityEntry(provider=f"0x{number:040x}", service_id=f"0x{number:064x}", is_barred=False, **values)


def test_blob_is_the_same_whatever_the_order_and_comes_back_whole() -> None:
    """Sorted once, so that every honest validator posts the same root and CID."""
    entries = [_entry(2), _entry(1)]
    blob = encode_quality(DOMAIN, 7, entries)
    assert blob == encode_quality(DOMAIN, 7, entries[::-1])
    decoded = decode_quality(blob, DOMAIN, root=quality_root(entries[::-1]), epoch=7)
    assert decoded.entries == tuple(entries[::-1])


def test_wrong_blobs_are_refused_by_name() -> None:
    """Another root, epoch, deployment or order, and what is no JSON of that form."""
    entries = [_entry(1), _entry(2)]
    blob, root = encode_quality(DOMAIN, 7, entries), quality_root(entries)
    with pytest.raises(BadTotal, match="root"):
        decode_quality(encode_quality(DOMAIN, 7, [_entry(1), _entry(2, quality_ppm=1)]), DOMAIN, root=root, epoch=7)
    with pytest.raises(BadMessage, match="another deployment or epoch"):
        decode_quality(blob, DOMAIN, root=root, epoch=8)
    with pytest.raises(BadMessage, match="another deployment or epoch"):
        decode_quality(blob, Domain(2, b"\x05" * 32), root=root, epoch=7)
    turned = msgspec.json.decode(blob)
    turned["entries"].reverse()
    with pytest.raises(BadMessage, match="ascend"):
        decode_quality(msgspec.json.encode(turned), DOMAIN, root=root, epoch=7)
    for wrong in (b"", b"\xff", b"[1]", blob.replace(b'"version":1', b'"version":2'), blob.replace(b"95238", b"9e9")):
        with pytest.raises(BadMessage, match="no blob of quality"):
            decode_quality(wrong, DOMAIN, root=root, epoch=7)
