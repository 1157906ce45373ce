"""Roots of the tries that a block commits to: its transactions and its receipts.

1. Built in one pass from the whole list, each node hashed once; the nodes themselves are thrown away, since what they
   hold is kept in tables.

Law: Ethereum yellow paper, appendix D (modified Merkle Patricia tree), keys rlp(index).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlp.codec import encode_raw

from steelyard.chain.embedded.header import EMPTY_TRIE_ROOT, integer
from steelyard.protocol.hashing import keccak

_Node = bytes | list["_Node"]
_Leaf = tuple[bytes, bytes]  # key as nibbles, one a byte; value


def ordered_trie_root(items: Sequence[bytes]) -> bytes:
    """Return the 32-byte root of the trie that maps rlp(i) to `items[i]`."""
    if not items:
        return EMPTY_TRIE_ROOT
    leaves = sorted((_nibbles(encode_raw(integer(index))), item) for index, item in enumerate(items))
    return keccak(encode_raw(_build(leaves, 0)))


def _build(leaves: Sequence[_Leaf], depth: int) -> _Node:
    if len(leaves) == 1:
        key, value = leaves[0]
        return [_hex_prefix(key[depth:], is_leaf=True), value]
    first, last = leaves[0][0], leaves[-1][0]
    shared = depth
    while shared < len(first) and shared < len(last) and first[shared] == last[shared]:
        shared += 1
    if shared > depth:
        return [_hex_prefix(first[depth:shared], is_leaf=False), _reference(_build(leaves, shared))]
    branch: list[_Node] = [b""] * 17
    start = 0
    if len(first) == depth:  # no key of rlp(index) is the beginning of another, but the law allows it
        branch[16] = leaves[0][1]
        start = 1
    while start < len(leaves):
        nibble = leaves[start][0][depth]
        end = start + 1
        while end < len(leaves) and leaves[end][0][depth] == nibble:
            end += 1
        branch[nibble] = _reference(_build(leaves[start:end], depth + 1))
        start = end
    return branch


def _reference(node: _Node) -> _Node:
    encoded = encode_raw(node)
    return node if len(encoded) < 32 else keccak(encoded)


def _nibbles(key: bytes) -> bytes:
    return bytes(nibble for byte in key for nibble in (byte >> 4, byte & 15))


def _hex_prefix(nibbles: bytes, *, is_leaf: bool) -> bytes:
    flag = 2 if is_leaf else 0
    padded = bytes([flag + 1]) + nibbles if len(nibbles) % 2 else bytes([flag, 0]) + nibbles
    return bytes(padded[i] << 4 | padded[i + 1] for i in range(0, len(padded), 2))
