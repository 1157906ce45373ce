"""Evidence under a receipt: how a blob of any length becomes the 32 bytes that the receipt names.

1. A blob is cut into chunks of 1,024 bytes, the last one shorter. The item of a chunk is keccak(its index as a 32-byte
   word ‖ the chunk).
2. A receipt's `evidence_hash` is the Merkle root over the items in their order; 32 zero bytes for an empty blob.
3. The index is needed: the tree hashes sorted pairs, so without it two chunks could change places under one root, and
   whoever passes evidence on could make an honest provider's look malformed.
4. So a chunk is proven alone, and a contract checks one with the items and a single hash.
5. What the bytes say is the kind's own matter; nothing here reads them.

Law: docs/spec/messages.md, section 5.  Vectors: tests/vectors/evidence.json, shared with contracts/Court.
"""

from __future__ import annotations

from steelyard.protocol.hashing import keccak, word
from steelyard.protocol.merkle import merkle_root

CHUNK_BYTES = 1_024
MAX_EVIDENCE_BYTES = 16 << 20
"""The most that is kept, sent or read for one answer: 460,000 tokens of `chat`."""


def split_chunks(blob: bytes) -> list[bytes]:
    """Return a blob's chunks, all of `CHUNK_BYTES` but the last; none for an empty blob."""
    return [blob[at : at + CHUNK_BYTES] for at in range(0, len(blob), CHUNK_BYTES)]


def chunk_items(blob: bytes) -> list[bytes]:
    """Return the 32-byte items that the root stands over, one for each chunk."""
    return [keccak(word(index) + chunk) for index, chunk in enumerate(split_chunks(blob))]


def evidence_root(blob: bytes) -> bytes:
    """Return the 32 bytes that a receipt names a blob by; zero for an empty one."""
    return merkle_root(chunk_items(blob))
