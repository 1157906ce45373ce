"""protocol/merkle.py against its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.protocol.merkle import build_proof, merkle_leaf, merkle_root, verify_proof

TREES = json.loads((Path(__file__).parents[2] / "vectors" / "merkle.json").read_text())["trees"]


def unhex(values: list[str]) -> list[bytes]:
    """Return the bytes of hex strings."""
    return [bytes.fromhex(value[2:]) for value in values]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: str(len(tree["items"])))
def test_tree_root_and_proofs_equal_the_vectors(tree: dict[str, Any]) -> None:
    """Root and every proof are those of the plain definition, and every proof verifies."""
    items = unhex(tree["items"])
    root = merkle_root(items)
    assert "0x" + root.hex() == tree["root"]
    for index, expected in enumerate(tree["proofs"]):
        proof = build_proof(items, index)
        assert proof == unhex(expected)
        assert verify_proof(root, items[index], proof)


def test_proof_of_another_leaf_or_an_inner_node_is_refused() -> None:
    """Neither another item, nor a shortened proof, nor an inner node's bytes pass for a leaf."""
    items = unhex(TREES[4]["items"])
    root = merkle_root(items)
    proof = build_proof(items, 2)
    assert not verify_proof(root, items[3], proof)
    assert not verify_proof(root, items[2], proof[1:])
    assert not verify_proof(root, merkle_leaf(items[0]) + merkle_leaf(items[1]), proof[1:])
    assert not verify_proof(root, items[2], [b"short", *proof])
    assert not verify_proof(root, items[2], proof + [b"\x00" * 32] * 64)


def test_tree_of_nothing_has_the_zero_root() -> None:
    """No items: a root of zeros, and no proof."""
    assert merkle_root([]) == b"\x00" * 32
    with pytest.raises(IndexError):
        build_proof([], 0)
