"""services/manifest.py: canonical bytes, and nothing read back that was not checked."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from steelyard.errors import BadMessage
from steelyard.services.manifest import (
    LATER,
    MAX_MANIFEST_BYTES,
    Manifest,
    TemplateOverhead,
    Weights,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)

FULL = Manifest(
    name="smollm2",
    kind="chat",
    weights=Weights(url="pypi:x==1", sha256="ab" * 32, size_bytes=9),
    tokenizer_hash="cd" * 32,
    context_tokens=4096,
    max_tokens_default=512,
    parameters=("max_tokens", "stop"),
    template_overhead=TemplateOverhead(per_request=3, per_message=4),
)


def test_manifest_through_its_bytes_is_the_same() -> None:
    """What is encoded is what is decoded, and the digest is the SHA-256 of those very bytes."""
    blob = encode_manifest(FULL)
    assert decode_manifest(blob) == FULL
    assert manifest_digest(blob) == hashlib.sha256(blob).digest()


def test_manifest_bytes_are_canonical() -> None:
    """Sorted keys, no spaces, every field present but empty later ones: equal manifests are equal blobs."""
    blob = encode_manifest(FULL)
    fields = json.loads(blob)
    assert json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() == blob
    assert set(fields) == set(Manifest.__struct_fields__) - set(LATER)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version"),
        ({"name": "Upper Case"}, "name"),
        ({"name": ""}, "name"),
        ({"colour": "red"}, "colour"),
        ({"context_tokens": -1}, "context_tokens"),
        ({"tokenizer_hash": "xyz"}, "tokenizer_hash"),
        ({"weights": {"url": "u", "sha256": "short", "size_bytes": 1}}, "sha256"),
        ({"parameters": ["stop", "stop"]}, "twice"),
        ({"max_tokens_default": 5000}, "max_tokens_default"),
        ({"temperature_default": 3}, "temperature_default"),
    ],
)
def test_manifest_that_breaks_a_rule_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    """A stranger's blob with one wrong field is refused, and the message names it."""
    blob = json.dumps({**json.loads(encode_manifest(FULL)), **change}).encode()
    with pytest.raises(BadMessage, match=named):
        decode_manifest(blob)


@pytest.mark.parametrize("blob", [b"", b"{", b"[]", b"\xff", b"x" * (MAX_MANIFEST_BYTES + 1)])
def test_manifest_that_is_no_manifest_is_refused(blob: bytes) -> None:
    """Bytes that are not a manifest, or far too many, are a peer's error and nothing worse."""
    with pytest.raises(BadMessage):
        decode_manifest(blob)


def test_manifest_of_a_chain_names_it_and_any_other_leaves_it_out() -> None:
    """`chain` and `family` came later: manifests without them keep the bytes that are registered."""
    relay = Manifest(name="eth", kind="rpc", chain="eth")
    assert decode_manifest(encode_manifest(relay)) == relay
    assert json.loads(encode_manifest(relay))["chain"] == "eth"
    assert "chain" not in json.loads(encode_manifest(FULL))
