"""The quality of all providers after an epoch, as one blob: what a validator computed from the ledger and the court.

1. JSON with sorted keys and no spaces, entries ascending by provider and service: whoever computes the same publishes
   the same bytes.
2. The item of a leaf is keccak of provider, service, passes, fails and whether it is barred, each a word.
3. A blob is bounded and checked for form and root; whether its numbers are right is for anyone to recompute.

Law: docs/spec/checking.md, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage, BadTotal
from steelyard.protocol.hashing import address_word, keccak, word
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.signing import Domain

VERSION = 1
MAX_QUALITY_BLOB_BYTES = 16 * 1024 * 1024
QUALITY_KIND = keccak(b"quality")

_Account = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{40}$")]
_Hash = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class QualityEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider at one service; account and id are 0x hex, counts are millionths of a pass and of a fail."""

    provider: _Account
    service_id: _Hash
    passes_ppm: _Count
    fails_ppm: _Count
    is_barred: bool
    quality_ppm: Annotated[int, msgspec.Meta(ge=0, le=10**6)]

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The provider's account and the service's id as bytes."""
        return bytes.fromhex(self.provider[2:]), bytes.fromhex(self.service_id[2:])


class QualityBlob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A decoded blob; `deployment` is the deployment id as 0x hex."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)] = VERSION
    chain_id: int
    deployment: _Hash
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    entries: tuple[QualityEntry, ...]


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(QualityBlob).decode


def quality_root(entries: Sequence[QualityEntry]) -> bytes:
    """Return the Merkle root that the ledger names; 32 zero bytes for none."""
    return merkle_root([_item(entry) for entry in entries])


def encode_quality(domain: Domain, epoch: int, entries: Sequence[QualityEntry]) -> bytes:
    """Return the blob of an epoch's quality; entries in any order, each pair once."""
    ordered = tuple(sorted(entries, key=lambda entry: entry.pair))
    return _encode(
        QualityBlob(chain_id=domain.chain_id, deployment="0x" + domain.salt.hex(), epoch=epoch, entries=ordered)
    )


def decode_quality(blob: bytes, domain: Domain, *, root: bytes, epoch: int) -> QualityBlob:
    """Return what a blob (untrusted) holds, once it gives the root that was posted for the epoch.

    Raises:
        BadMessage: too large, malformed, not in order, or of another deployment or epoch. BadTotal: another root.
    """
    if len(blob) > MAX_QUALITY_BLOB_BYTES:
        raise BadMessage(f"a blob of quality has at most {MAX_QUALITY_BLOB_BYTES} bytes, this one {len(blob)}")
    try:
        decoded = _decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"this is no blob of quality: {error}") from error
    if (decoded.chain_id, decoded.deployment, decoded.epoch) != (domain.chain_id, "0x" + domain.salt.hex(), epoch):
        raise BadMessage("the blob of quality is of another deployment or epoch")
    if any(one.pair >= other.pair for one, other in pairwise(decoded.entries)):
        raise BadMessage("the entries of a blob of quality ascend, each once")
    if quality_root(decoded.entries) != root:
        raise BadTotal("the blob of quality does not give the root that was posted")
    return decoded


def _item(entry: QualityEntry) -> bytes:
    provider, service_id = entry.pair
    counts = word(entry.passes_ppm) + word(entry.fails_ppm) + word(int(entry.is_barred)) + word(entry.quality_ppm)
    return keccak(address_word(provider) + service_id + counts)
