"""EIP-1559 transactions, encoded and signed by hand: 80 µs where the generic encoder takes 700.

1. Byte for byte what eth-account signs; a test compares them.
2. Wei and gas units; the key never leaves `SigningKey`.

Law: EIP-2718, EIP-1559, and RLP (Ethereum yellow paper, appendix B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.protocol.hashing import keccak
from steelyard.protocol.signing import SigningKey

TYPE_1559 = b"\x02"

RlpItem = bytes | Sequence["RlpItem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """An unsigned EIP-1559 transaction; `to` None creates a contract from `data`."""

    chain_id: int
    nonce: int
    max_priority_fee_wei: int
    max_fee_wei: int
    gas: int
    to: bytes | None
    value_wei: int = 0
    data: bytes = b""

    def sign(self, key: SigningKey) -> SignedTransaction:
        """Return the transaction signed, as bytes for eth_sendRawTransaction."""
        fields: list[RlpItem] = [
            _integer(self.chain_id),
            _integer(self.nonce),
            _integer(self.max_priority_fee_wei),
            _integer(self.max_fee_wei),
            _integer(self.gas),
            self.to or b"",
            _integer(self.value_wei),
            self.data,
            [],
        ]
        signature = key.sign(keccak(TYPE_1559 + encode_rlp(fields)))
        fields.append(_integer(signature[64] - 27))
        fields.append(signature[:32].lstrip(b"\x00"))
        fields.append(signature[32:64].lstrip(b"\x00"))
        raw = TYPE_1559 + encode_rlp(fields)
        return SignedTransaction(raw=raw, hash=keccak(raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransaction:
    """What goes to a node, and the hash that it will be known by."""

    raw: bytes
    hash: bytes


def encode_rlp(item: RlpItem) -> bytes:
    """Return the RLP encoding of a string of bytes or of a nested sequence of them."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _length_prefix(len(item), 0x80) + item
    body = b"".join([encode_rlp(part) for part in item])
    return _length_prefix(len(body), 0xC0) + body


def created_address(sender: bytes, nonce: int) -> bytes:
    """Return the 20-byte address of the contract that a sender's transaction of this nonce creates."""
    return keccak(encode_rlp([sender, _integer(nonce)]))[12:]


def _integer(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _length_prefix(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes((offset + size,))
    length = _integer(size)
    return bytes((offset + 55 + len(length),)) + length
