"""Content ids."""

from __future__ import annotations

import pytest

from steelyard.errors import BadRequest
from steelyard.protocol.cid import Cid, cid_of, parse_cid

# Known from elsewhere: `ipfs add --cid-version 1 --raw-leaves` of these bytes.
VECTORS = [
    (b"", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
    (b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
]


@pytest.mark.parametrize(("blob", "text"), VECTORS)
def test_cid_of_known_bytes_is_the_one_that_ipfs_prints(blob: bytes, text: str) -> None:
    """The public form is that of the IPFS tools, and reads back to the same digest."""
    assert str(cid_of(blob)) == text
    assert parse_cid(text) == cid_of(blob)
    assert len(text) == 59


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bafkrei",
        VECTORS[0][1].upper(),
        VECTORS[0][1][:-1],
        VECTORS[0][1] + "a",
        VECTORS[0][1][:-1] + "v",  # the same digest with a spare bit set
        VECTORS[0][1][:-1] + "1",
        "z" + VECTORS[0][1][1:],
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",  # dag-pb, not raw
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        "0x" + "00" * 32,
        "é" * 59,
    ],
)
def test_cid_of_another_form_is_refused(text: str) -> None:
    """Another case, base, codec or version, a spelling that we would not write, and anything else name the field."""
    with pytest.raises(BadRequest) as refusal:
        parse_cid(text, param="manifest")
    assert refusal.value.param == "manifest"


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "00" * 32])
def test_cid_with_another_digest_cannot_be_made(digest: bytes) -> None:
    """A digest is 32 bytes."""
    with pytest.raises(ValueError, match="32 bytes"):
        Cid(digest)
