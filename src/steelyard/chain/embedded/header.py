"""Block headers of the Prague fork, as hashed.

1. A header's hash is the Keccak-256 of its RLP; what this chain never uses (uncles, withdrawals, blobs) stands at the
   value that the law gives it when empty.
2. Timestamps are whole Unix seconds and never fall; several blocks may share a second.

Law: Ethereum yellow paper, section 4.3; EIP-1559, EIP-4895, EIP-4844, EIP-4788, EIP-7685.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlp.codec import decode_raw, encode_raw

from steelyard.protocol.hashing import ZERO32, keccak

EMPTY_TRIE_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
EMPTY_UNCLES_HASH = bytes.fromhex("1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347")
EMPTY_REQUESTS_HASH = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
EMPTY_BLOOM = bytes(256)
POST_MERGE_NONCE = bytes(8)
EXTRA_DATA = b"steelyard"
COINBASE = b"\x00" * 12 + b"steelyrd"

BASE_FEE_MAX_CHANGE_DENOMINATOR = 8  # EIP-1559
ELASTICITY_MULTIPLIER = 2  # EIP-1559
GENESIS_BASE_FEE_WEI = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What varies from block to block; `hash` is empty until it is sealed."""

    number: int
    parent_hash: bytes
    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    bloom: bytes
    gas_limit: int
    gas_used: int
    timestamp_s: int
    base_fee_wei: int
    coinbase: bytes = COINBASE
    hash: bytes = b""

    @property
    def mix_hash(self) -> bytes:
        """The value of PREVRANDAO: the parent's hash hashed again; one sequencer has no better randomness to offer."""
        return keccak(self.parent_hash)

    def seal(self) -> Header:
        """Return this header with its hash."""
        return replace(self, hash=keccak(self.encode()))

    def encode(self) -> bytes:
        """Return the RLP whose Keccak-256 is the block's hash."""
        return bytes(
            encode_raw(
                [
                    self.parent_hash,
                    EMPTY_UNCLES_HASH,
                    self.coinbase,
                    self.state_root,
                    self.transactions_root,
                    self.receipts_root,
                    self.bloom,
                    b"",  # difficulty
                    integer(self.number),
                    integer(self.gas_limit),
                    integer(self.gas_used),
                    integer(self.timestamp_s),
                    EXTRA_DATA,
                    self.mix_hash,
                    POST_MERGE_NONCE,
                    integer(self.base_fee_wei),
                    EMPTY_TRIE_ROOT,  # withdrawals
                    b"",  # blob gas used
                    b"",  # excess blob gas
                    ZERO32,  # parent beacon block root: there is no beacon chain
                    EMPTY_REQUESTS_HASH,
                ]
            )
        )


def decode_header(encoded: bytes, block_hash: bytes) -> Header:
    """Return a header that this chain stored; `block_hash` comes from the row beside it."""
    fields = decode_raw(encoded, True, False)[0]
    return Header(
        hash=block_hash,
        parent_hash=fields[0],
        coinbase=fields[2],
        state_root=fields[3],
        transactions_root=fields[4],
        receipts_root=fields[5],
        bloom=fields[6],
        number=int.from_bytes(fields[8], "big"),
        gas_limit=int.from_bytes(fields[9], "big"),
        gas_used=int.from_bytes(fields[10], "big"),
        timestamp_s=int.from_bytes(fields[11], "big"),
        base_fee_wei=int.from_bytes(fields[15], "big"),
    )


def integer(value: int) -> bytes:
    """Return a non-negative integer as RLP wants it: big-endian without leading zeros, zero as nothing."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def next_base_fee(parent: Header) -> int:
    """Return the base fee in wei of the block after `parent`.

    Source: EIP-1559, `calc_base_fee_per_gas`; the target is half of the gas limit.
    """
    target = parent.gas_limit // ELASTICITY_MULTIPLIER
    base_fee = parent.base_fee_wei
    if parent.gas_used == target:
        return base_fee
    delta = base_fee * abs(parent.gas_used - target) // target // BASE_FEE_MAX_CHANGE_DENOMINATOR
    return base_fee + max(delta, 1) if parent.gas_used > target else max(base_fee - delta, 0)
