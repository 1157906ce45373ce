"""Merkle trees that OpenZeppelin's MerkleProof accepts.

1. A leaf is keccak(keccak(data)): hashed twice, so that no inner node passes for a leaf.
2. An inner node is keccak of its two children in sorted order; an odd node moves up unchanged.
3. A proof is the list of siblings from the leaf to the root.

Law: docs/spec/messages.md, section 5.  Vectors: tests/vectors/merkle.json, shared with contracts/Ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.protocol.hashing import ZERO32, keccak

MAX_PROOF = 64


def merkle_leaf(data: bytes) -> bytes:
    """Return the 32-byte leaf of some bytes."""
    return keccak(keccak(data))


def merkle_root(items: Sequence[bytes]) -> bytes:
    """Return the root over the items' leaves, in their order; 32 zero bytes for none."""
    level = [keccak(keccak(item)) for item in items]
    if not level:
        return ZERO32
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def build_proof(items: Sequence[bytes], index: int) -> list[bytes]:
    """Return the siblings that lead from item `index` to the root; raises IndexError outside the items."""
    if not 0 <= index < len(items):
        raise IndexError(f"leaf {index} of {len(items)}")
    level = [keccak(keccak(item)) for item in items]
    proof = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        level = _parents(level)
        index //= 2
    return proof


def verify_proof(root: bytes, data: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether data is a leaf under the root (all untrusted; a proof over 64 steps is refused)."""
    if len(proof) > MAX_PROOF:
        return False
    node = merkle_leaf(data)
    for sibling in proof:
        if len(sibling) != 32:
            return False
        node = _parent(node, sibling)
    return node == root


def _parent(left: bytes, right: bytes) -> bytes:
    return keccak(left + right if left <= right else right + left)


def _parents(level: list[bytes]) -> list[bytes]:
    above = [_parent(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above
