"""protocol/evidence.py against its vectors."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from steelyard.protocol.evidence import CHUNK_BYTES, chunk_items, evidence_root, split_chunks
from steelyard.protocol.hashing import ZERO32, keccak, word
from steelyard.protocol.merkle import build_proof, verify_proof

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "evidence.json").read_text())


def unhex(text: str) -> bytes:
    """Return the bytes of a 0x string."""
    return bytes.fromhex(text[2:])


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(len(case["blob"]) // 2 - 1))
def test_items_and_root_equal_the_vectors(case: dict[str, Any]) -> None:
    """Items and root are those of the plain definition, and the chunks join to the blob."""
    blob = unhex(case["blob"])
    assert VECTORS["chunk_bytes"] == CHUNK_BYTES
    assert b"".join(split_chunks(blob)) == blob
    assert chunk_items(blob) == [unhex(item) for item in case["items"]]
    assert evidence_root(blob) == unhex(case["root"])


def test_every_chunk_is_proven_alone() -> None:
    """A chunk's item leads to the root by a Merkle proof, and no other chunk's does."""
    blob = bytes(range(256)) * 20
    items, root = chunk_items(blob), evidence_root(blob)
    for index, chunk in enumerate(split_chunks(blob)):
        assert verify_proof(root, keccak(word(index) + chunk), build_proof(items, index))
    assert not verify_proof(root, keccak(b"another chunk"), build_proof(items, 1))


def test_root_changes_with_every_byte_and_with_the_length() -> None:
    """A changed, added or missing byte gives another root; nothing at all gives zero."""
    blob = bytes(3000)
    roots = {evidence_root(bytes((*blob[:at], 1, *blob[at + 1 :]))) for at in (0, 1023, 1024, 2999)}
    roots |= {evidence_root(blob), evidence_root(blob + b"\x00"), evidence_root(blob[:-1])}
    assert len(roots) == 7
    assert evidence_root(b"") == ZERO32


def test_chunks_that_change_places_give_another_root() -> None:
    """Sorted pairs forget left and right, the items' indices don't: no permuted blob passes for the signed one."""
    chunks = [bytes([value]) * CHUNK_BYTES for value in range(4)]
    roots = {evidence_root(b"".join(chunks[at] for at in order)) for order in permutations(range(4))}
    assert len(roots) == 24
