"""Raw transactions: what wallets sign is what we read, and what isn't canonical is refused in geth's words."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from rlp.codec import decode_raw, encode_raw

from steelyard.chain.embedded.transactions import (
    contract_address,
    decode_transaction,
    floor_gas,
    intrinsic_gas,
)
from steelyard.errors import Refusal

CHAIN_ID = 31415
ACCOUNT = Account.from_key("0x" + "11" * 32)
TO = "0x" + "22" * 20
ACCESS = [{"address": "0x" + "33" * 20, "storageKeys": ["0x" + "00" * 31 + "05"]}]
FIELDS: dict[str, Any] = {"chainId": CHAIN_ID, "nonce": 7, "gas": 90_000, "to": TO, "value": 5, "data": b"\x01\x00"}
BY_TYPE: list[dict[str, Any]] = [
    {**FIELDS, "gasPrice": 10},
    {**FIELDS, "gasPrice": 10, "accessList": ACCESS, "type": 1},
    {**FIELDS, "maxFeePerGas": 30, "maxPriorityFeePerGas": 2, "accessList": ACCESS},
]


def signed(fields: dict[str, Any]) -> bytes:
    """Return the raw transaction that eth-account makes of fields."""
    return bytes(ACCOUNT.sign_transaction(fields).raw_transaction)


@pytest.mark.parametrize("type_id", [0, 1, 2])
def test_decode_signed_by_eth_account_gives_every_field(type_id: int) -> None:
    """All three types decode to the fields that were signed, with the signer as sender."""
    fields = BY_TYPE[type_id]
    one = ACCOUNT.sign_transaction(fields)
    tx = decode_transaction(bytes(one.raw_transaction), CHAIN_ID)
    assert (tx.type_id, tx.hash) == (type_id, bytes(one.hash))
    assert "0x" + tx.sender.hex() == ACCOUNT.address.lower()
    assert (tx.nonce, tx.gas, "0x" + tx.to.hex(), tx.value, tx.data) == (7, 90_000, TO, 5, b"\x01\x00")
    assert (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) == ((30, 2) if type_id == 2 else (10, 10))
    assert tx.access_list == (((b"\x33" * 20, (5,)),) if type_id else ())
    assert (tx.v, tx.r, tx.s) == (one.v, one.r, one.s)
    assert tx.max_cost_wei == 90_000 * tx.max_fee_per_gas + 5


def test_decode_creation_has_no_recipient() -> None:
    """A transaction without `to` creates a contract, and pays for its init code's words."""
    tx = decode_transaction(signed({**BY_TYPE[2], "to": "", "data": b"\x00" * 33}), CHAIN_ID)
    assert tx.to == b""
    assert tx.intrinsic_gas == 21_000 + 33 * 4 + 32_000 + 2 * 2 + 2_400 + 1_900


def test_decode_known_sender_is_not_recovered_again() -> None:
    """A stored transaction takes its sender from the row beside it."""
    assert decode_transaction(signed(BY_TYPE[2]), CHAIN_ID, sender=b"\x09" * 20).sender == b"\x09" * 20


def changed(raw: bytes, index: int, value: Any) -> bytes:
    """Return a dynamic-fee transaction with one field replaced."""
    fields = decode_raw(raw[1:], True, False)[0]
    fields[index] = value
    return b"\x02" + bytes(encode_raw(fields))


GOOD = signed(BY_TYPE[2])
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
UNPROTECTED = bytes(
    encode_raw([b"", b"\x01", b"\x52\x08", b"\x22" * 20, b"", b"", b"\x1b", b"\x01" * 32, b"\x01" * 32])
)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "typed transaction too short"),
        (b"\x03" + GOOD[1:], "transaction type not supported"),
        (b"\x04" + GOOD[1:], "transaction type not supported"),
        (b"\x00" + GOOD[1:], "transaction type not supported"),
        (GOOD + b"\x00", "rlp: "),
        (GOOD[:-1], "rlp: "),
        (b"\x02\xc0", "has 12 fields"),
        (b"\x02" + b"\xc1" * 3_000, "rlp: "),
        (b"\x02" + b"\x00" * 200_000, "oversized data: transaction size 200001, limit 131072"),
        (signed({**BY_TYPE[2], "chainId": 1}), "invalid chain id for signer: have 1 want 31415"),
        (signed({**BY_TYPE[0], "chainId": 1}), "invalid chain id for signer: have 1 want 31415"),
        (UNPROTECTED, "only replay-protected"),
        (changed(GOOD, 1, b"\x00\x07"), "non-canonical integer"),
        (changed(GOOD, 1, b"\x01" * 9), "at most 8 bytes"),
        (changed(GOOD, 5, b"\x22" * 19), "an address of 20 bytes"),
        (changed(GOOD, 5, [b"\x22"] * 20), "an address of 20 bytes"),
        (changed(GOOD, 7, [b"\x01"]), "expected input string"),
        (changed(GOOD, 8, b"\x01\x02"), "rlp: "),
        (changed(GOOD, 8, [[b"\x33" * 20, [b"\x05"]]]), "32-byte slots"),
        (changed(GOOD, 9, b"\x02"), "invalid sender"),
        (changed(GOOD, 10, b""), "invalid sender"),
        (changed(GOOD, 11, (HALF_ORDER + 1).to_bytes(32, "big")), "invalid sender"),
    ],
)
def test_decode_malformed_is_refused_in_words(raw: bytes, words: str) -> None:
    """Whatever is not exactly one canonical transaction for this chain is a Refusal that says why."""
    with pytest.raises(Refusal, match=words):
        decode_transaction(raw, CHAIN_ID)


def test_gas_before_the_first_instruction_follows_the_laws() -> None:
    """EIP-2028 prices, EIP-3860 words, EIP-2930 entries, and EIP-7623's floor."""
    data = b"\x00" * 3 + b"\x01" * 5
    assert intrinsic_gas(data, is_create=False) == 21_000 + 3 * 4 + 5 * 16
    assert intrinsic_gas(b"", is_create=True) == 53_000
    assert intrinsic_gas(b"", is_create=False, access_list=((b"\x01" * 20, (1, 2)),)) == 21_000 + 2_400 + 2 * 1_900
    assert floor_gas(data) == 21_000 + 10 * (3 + 4 * 5)


def test_contract_address_is_the_known_one() -> None:
    """The address of a creation: the example that every implementation uses."""
    sender = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    assert contract_address(sender, 0).hex() == "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    assert contract_address(sender, 1).hex() == "343c43a37d37dff08ae8c4a11544c718abb4fcf8"
