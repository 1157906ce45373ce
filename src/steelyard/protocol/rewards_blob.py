"""The leaves under a root of rewards, as one blob: what each account has earned in all.

1. msgpack of [version, chain id, deployment id, epoch, [[account, cumulative nano], …]], accounts in ascending order,
   each once, none with nothing: the same earnings are the same bytes, and the same root.
2. The item of a leaf is keccak(account as a word ‖ cumulative as a word), which the contract computes itself.
3. Amounts are cumulative: a root says what the final one before it said, and what was earned since.
4. A blob is bounded and checked for form, root and total; whether its amounts are right is for challengers to
   recompute.

Law: docs/spec/contracts.md, section 9.  Twin: contracts/src/Rewards.sol.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage, BadTotal
from steelyard.protocol.hashing import address_word, keccak, word
from steelyard.protocol.merkle import build_proof, merkle_root
from steelyard.protocol.signing import Domain

VERSION = 1
MAX_REWARDS_BLOB_BYTES = 64 * 1024 * 1024
MAX_SHARE_NANO = 2**64 - 1
"""Eighteen times all YARD of a first supply; msgpack has no larger integers."""

Shares = Mapping[bytes, int]
"""Account (20 bytes) → what it earned ever, in nano."""


class Share(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One leaf."""

    account: Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
    cumulative: Annotated[int, msgspec.Meta(ge=1)]


class RewardsBlob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A decoded blob; `salt` is the deployment id (32 bytes), `epoch` the last one that it covers."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    chain_id: int
    salt: bytes
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    shares: tuple[Share, ...]

    def as_shares(self) -> dict[bytes, int]:
        """Return account → cumulative nano, in ascending order."""
        return {share.account: share.cumulative for share in self.shares}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RewardsBlob).decode


def add_earnings(before: Shares, earned: Shares) -> dict[bytes, int]:
    """Return what accounts have earned in all: the last final root's shares, and what came since; nothing is left out.

    Raises:
        BadMessage: an account or amount that is none, or earnings below zero, which would take back what was promised.
    """
    sums = dict(before)
    for account, amount in earned.items():
        if amount < 0:
            raise BadMessage(f"0x{account.hex()} can't earn {amount} nano: a root never takes back")
        sums[account] = sums.get(account, 0) + amount
    shares = {account: sums[account] for account in sorted(sums) if sums[account]}
    for account, amount in shares.items():
        if len(account) != 20 or not 0 < amount <= MAX_SHARE_NANO:
            raise BadMessage(f"{amount} nano for 0x{account.hex()} is no share")
    return shares


def share_item(account: bytes, cumulative: int) -> bytes:
    """Return the 32-byte item of a leaf, keccak256(abi.encode(account, cumulative))."""
    return keccak(address_word(account) + word(cumulative))


def shares_root(shares: Shares) -> bytes:
    """Return the Merkle root over the shares in ascending order of account; 32 zero bytes for none."""
    return merkle_root([share_item(account, shares[account]) for account in sorted(shares)])


def build_share_proof(shares: Shares, account: bytes) -> list[bytes]:
    """Return the siblings that lead from an account's leaf to the root; raises KeyError for one without a share."""
    shares[account]
    accounts = sorted(shares)
    return build_proof([share_item(one, shares[one]) for one in accounts], accounts.index(account))


def encode_rewards(domain: Domain, epoch: int, shares: Shares) -> bytes:
    """Return the blob of all shares up to an epoch, as `add_earnings` gives them."""
    leaves = tuple(Share(account, shares[account]) for account in sorted(shares))
    return _encode(RewardsBlob(VERSION, domain.chain_id, domain.salt, epoch, leaves))


def decode_rewards(blob: bytes, domain: Domain, *, root: bytes, total: int) -> RewardsBlob:
    """Return what a blob (untrusted) holds, once it gives the root and the total that were proposed with it.

    Raises:
        BadMessage: too large, malformed, not in order, or of another deployment. BadTotal: another root or total.
    """
    if len(blob) > MAX_REWARDS_BLOB_BYTES:
        raise BadMessage(f"a blob of rewards has at most {MAX_REWARDS_BLOB_BYTES} bytes, this one {len(blob)}")
    try:
        decoded = _decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"this is no blob of rewards: {error}") from error
    if (decoded.chain_id, decoded.salt) != (domain.chain_id, domain.salt):
        raise BadMessage("the blob of rewards is of another deployment")
    if any(before.account >= after.account for before, after in pairwise(decoded.shares)):
        raise BadMessage("the accounts of a blob of rewards ascend, each once")
    found = sum(share.cumulative for share in decoded.shares)
    if found != total:
        raise BadTotal(f"the blob's shares add up to {found} nano, and {total} were proposed")
    if shares_root(decoded.as_shares()) != root:
        raise BadTotal("the blob of rewards does not give the root that was proposed")
    return decoded
