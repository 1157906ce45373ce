"""A validator's verdicts of one epoch, as one blob under a root on the ledger: what quality and audits are made of.

1. msgpack of [version, chain id, deployment id, validator, epoch, [[verdict, signature, provider, service id, gateway,
   selected by, reason, millionths of nats, tokens], …]], in the order in which they were reached.
2. The items of its Merkle tree are the verdicts' struct hashes, in the same order; its kind is keccak("verdicts").
3. A blob is bounded and checked for form and signatures; whether a validator checked what it had to is the auditor's.

Law: docs/spec/validator.md, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage, BadTotal
from steelyard.protocol.hashing import keccak
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Verdict
from steelyard.protocol.signing import Domain, require_signer

VERSION = 1
MAX_VERDICTS_BLOB_BYTES = 64 * 1024 * 1024
VERDICTS_KIND = keccak(b"verdicts")

_Account = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
_Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Word = Annotated[str, msgspec.Meta(max_length=64)]


class PublishedVerdict(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed verdict and what it is about; `selected_by` is ``rate``, ``boost``, ``newcomer`` or ``probe``."""

    verdict: Verdict
    signature: bytes
    provider: _Account
    service_id: _Hash
    gateway: _Account
    selected_by: _Word
    reason: _Word
    micro_nats: int
    tokens: int


class VerdictsBlob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A decoded blob; `salt` is the deployment id (32 bytes)."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    chain_id: int
    salt: bytes
    validator: _Account
    epoch: int
    verdicts: tuple[PublishedVerdict, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(VerdictsBlob).decode


def encode_verdicts(domain: Domain, validator: bytes, epoch: int, verdicts: Sequence[PublishedVerdict]) -> bytes:
    """Return the blob of an epoch's verdicts, at least one."""
    return _encode(VerdictsBlob(VERSION, domain.chain_id, domain.salt, validator, epoch, tuple(verdicts)))


def verdicts_root(verdicts: Sequence[PublishedVerdict]) -> bytes:
    """Return the Merkle root that the ledger names."""
    return merkle_root([item.verdict.struct_hash() for item in verdicts])


def decode_verdicts(blob: bytes, domain: Domain, *, root: bytes) -> VerdictsBlob:
    """Return what a blob (untrusted) holds, all signed by its validator and under the root that it posted.

    Raises:
        BadMessage: too large, malformed, or of another deployment. BadTotal: another root, or a verdict of another
        validator or epoch. BadSignature: a verdict that its validator didn't sign.
    """
    if len(blob) > MAX_VERDICTS_BLOB_BYTES:
        raise BadMessage(f"a blob of verdicts has at most {MAX_VERDICTS_BLOB_BYTES} bytes, this one {len(blob)}")
    try:
        decoded = _decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"this is no blob of verdicts: {error}") from error
    if (decoded.chain_id, decoded.salt) != (domain.chain_id, domain.salt):
        raise BadMessage("the blob of verdicts is of another deployment")
    for item in decoded.verdicts:
        item.verdict.check_fields()
        if (item.verdict.validator, item.verdict.epoch) != (decoded.validator, decoded.epoch):
            raise BadTotal("the blob holds a verdict of another validator or epoch")
        require_signer(domain.digest(item.verdict.struct_hash()), item.signature, decoded.validator, "verdict")
    if verdicts_root(decoded.verdicts) != root:
        raise BadTotal("the blob of verdicts does not give the root that was posted")
    return decoded
