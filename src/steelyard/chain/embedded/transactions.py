"""Signed transactions as they arrive, decoded and priced, before any state is looked at.

1. Three types: legacy with replay protection (EIP-155), access list (EIP-2930) and dynamic fee (EIP-1559). Blobs
   (EIP-4844) and account code (EIP-7702) are refused by name.
2. One decoding is canonical: trailing bytes, leading zeros and high `s` are refused, so a hash names one transaction.
3. Refusals are worded as geth words them: wallets and libraries match on the text.
4. A legacy gas price is both fees at once, as EIP-1559 reads it.

Law: EIP-155, EIP-2718, EIP-2930, EIP-1559, EIP-2028, EIP-3860, EIP-7623.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlp.codec import decode_raw, encode_raw
from rlp.exceptions import RLPException

from steelyard.chain.embedded.header import integer
from steelyard.errors import BadSignature, Refusal
from steelyard.protocol.hashing import keccak
from steelyard.protocol.signing import recover_account

MAX_TRANSACTION_BYTES = 128 * 1024  # geth's limit
MAX_INITCODE_BYTES = 49_152  # EIP-3860

AccessList = tuple[tuple[bytes, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A signed transaction; `to` is empty for one that creates a contract, `v` is the y parity but for legacy ones."""

    type_id: int
    hash: bytes
    raw: bytes
    sender: bytes
    chain_id: int
    nonce: int
    gas: int
    to: bytes
    value: int
    data: bytes
    access_list: AccessList
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    intrinsic_gas: int
    v: int
    r: int
    s: int

    def effective_gas_price(self, base_fee_wei: int) -> int:
        """Return what one unit of gas costs the sender, in wei, in a block of that base fee."""
        return min(self.max_fee_per_gas, base_fee_wei + self.max_priority_fee_per_gas)

    @property
    def max_cost_wei(self) -> int:
        """The most that the sender can be charged: gas limit at the fee cap, and the value."""
        return self.gas * self.max_fee_per_gas + self.value


def decode_transaction(raw: bytes, chain_id: int, *, sender: bytes | None = None) -> Transaction:
    """Return the transaction that `raw` encodes.

    Args:
        raw: as sent by a wallet; untrusted.
        chain_id: of this chain; any other is refused.
        sender: known already for what this chain stored, which spares the recovery; None recovers it.

    Raises:
        Refusal: malformed, of an unknown type, for another chain, or with a signature that recovers to nobody.
    """
    if not raw:
        raise Refusal("typed transaction too short", code="bad_transaction")
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise Refusal(f"oversized data: transaction size {len(raw)}, limit {MAX_TRANSACTION_BYTES}", code="oversized")
    type_id = 0 if raw[0] >= 0xC0 else raw[0]
    if type_id > 2 or (type_id == 0 and raw[0] == 0):
        raise Refusal("transaction type not supported", code="bad_transaction")
    fields = _decode_list(raw if type_id == 0 else raw[1:], (9, 11, 12)[type_id])
    try:
        return _decode_fields(raw, fields, type_id, chain_id, sender)
    except (ValueError, TypeError, IndexError) as error:
        raise Refusal(f"rlp: {error}", code="bad_transaction") from error


def _decode_list(encoded: bytes, count: int) -> list[Any]:
    try:
        fields = decode_raw(encoded, True, False)[0]
    except (RLPException, IndexError, RecursionError) as error:
        raise Refusal(f"rlp: {str(error)[:120] or 'malformed'}", code="bad_transaction") from error
    if not isinstance(fields, list) or len(fields) != count:
        raise Refusal(f"rlp: a transaction of this type has {count} fields", code="bad_transaction")
    return fields


def _decode_fields(raw: bytes, fields: list[Any], type_id: int, chain_id: int, sender: bytes | None) -> Transaction:
    if type_id == 0:
        nonce, gas_price, gas, to, value, data, v, r, s = fields
        max_fee = max_tip = gas_price
        entries: list[Any] = []
        named_chain = _legacy_chain_id(_integer(v, 8))
        signed = encode_raw([*fields[:6], integer(named_chain), b"", b""])
    elif type_id == 1:
        chain, nonce, gas_price, gas, to, value, data, entries, v, r, s = fields
        max_fee = max_tip = gas_price
        named_chain = _integer(chain, 32)
        signed = b"\x01" + encode_raw(fields[:-3])
    else:
        chain, nonce, max_tip, max_fee, gas, to, value, data, entries, v, r, s = fields
        named_chain = _integer(chain, 32)
        signed = b"\x02" + encode_raw(fields[:-3])
    if named_chain != chain_id:
        raise Refusal(f"invalid chain id for signer: have {named_chain} want {chain_id}", code="invalid_chain_id")
    if not isinstance(to, bytes) or len(to) not in (0, 20):
        raise ValueError("a recipient is an address of 20 bytes, or nothing")
    if not isinstance(data, bytes):
        raise ValueError("expected input string or byte for data")
    access_list = _access_list(entries)
    v_value = _integer(v, 8)
    parity = v_value - 35 - 2 * chain_id if type_id == 0 else v_value
    return Transaction(
        type_id=type_id,
        hash=keccak(raw),
        raw=raw,
        sender=_recover(keccak(signed), parity, _integer(r, 32), _integer(s, 32)) if sender is None else sender,
        chain_id=named_chain,
        nonce=_integer(nonce, 8),
        gas=_integer(gas, 8),
        to=to,
        value=_integer(value, 32),
        data=data,
        access_list=access_list,
        max_fee_per_gas=_integer(max_fee, 32),
        max_priority_fee_per_gas=_integer(max_tip, 32),
        intrinsic_gas=intrinsic_gas(data, is_create=not to, access_list=access_list),
        v=v_value,
        r=_integer(r, 32),
        s=_integer(s, 32),
    )


def _legacy_chain_id(v: int) -> int:
    if v < 35:
        raise Refusal("only replay-protected (EIP-155) transactions allowed over RPC", code="bad_transaction")
    return (v - 35) // 2


def _recover(digest: bytes, parity: int, r: int, s: int) -> bytes:
    if parity not in (0, 1):
        raise Refusal("invalid sender: invalid transaction v, r, s values", code="bad_transaction")
    try:
        return recover_account(digest, r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + parity]))
    except BadSignature as error:
        raise Refusal(f"invalid sender: {error.message}", code="bad_transaction") from error


def _integer(encoded: Any, max_bytes: int) -> int:
    if not isinstance(encoded, bytes) or len(encoded) > max_bytes:
        raise ValueError(f"an integer must be a string of at most {max_bytes} bytes")
    if encoded[:1] == b"\x00":
        raise ValueError("non-canonical integer (leading zero bytes)")
    return int.from_bytes(encoded, "big")


def _access_list(entries: Any) -> AccessList:
    access_list = []
    for address, slots in entries:
        if len(address) != 20 or any(len(slot) != 32 for slot in slots):
            raise ValueError("an access list entry is an address and 32-byte slots")
        access_list.append((bytes(address), tuple(int.from_bytes(slot, "big") for slot in slots)))
    return tuple(access_list)


def intrinsic_gas(data: bytes, *, is_create: bool, access_list: AccessList = ()) -> int:
    """Return the gas that a transaction costs before its first instruction.

    Source: EIP-2028 (16 and 4 a byte), EIP-2 (32,000 to create), EIP-3860 (2 a word), EIP-2930 (2,400 and 1,900).
    """
    zeros = data.count(0)
    gas = 21_000 + 4 * zeros + 16 * (len(data) - zeros)
    if is_create:
        gas += 32_000 + 2 * ((len(data) + 31) // 32)
    return gas + sum(2_400 + 1_900 * len(slots) for _, slots in access_list)


def floor_gas(data: bytes) -> int:
    """Return the least that a transaction with this data is charged; source: EIP-7623."""
    zeros = data.count(0)
    return 21_000 + 10 * (zeros + 4 * (len(data) - zeros))


def contract_address(sender: bytes, nonce: int) -> bytes:
    """Return the address of the contract that `sender` creates with its transaction of that nonce."""
    return keccak(encode_raw([sender, integer(nonce)]))[12:]
