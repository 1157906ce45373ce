"""Transactions: byte for byte what eth-account signs."""

from __future__ import annotations

import pytest
import rlp  # eth-account's own dependency, the second opinion here
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chain.transaction import Transaction, created_address, encode_rlp
from steelyard.protocol.signing import SigningKey

amounts = st.integers(0, 2**96)
nested = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=5), max_leaves=12)


@given(
    secret=st.integers(1, 2**250),
    nonce=st.integers(0, 2**40),
    fee=amounts,
    tip=amounts,
    gas=st.integers(21_000, 2**24),
    to=st.none() | st.binary(min_size=20, max_size=20),
    value=amounts,
    data=st.binary(max_size=300),
)
def test_sign_any_transaction_equals_eth_account(
    secret: int, nonce: int, fee: int, tip: int, gas: int, to: bytes | None, value: int, data: bytes
) -> None:
    """Any EIP-1559 transaction signs to the same bytes and hash as eth-account's generic encoder."""
    key = SigningKey(secret.to_bytes(32, "big"))
    ours = Transaction(
        chain_id=31415,
        nonce=nonce,
        max_priority_fee_wei=tip,
        max_fee_wei=fee + tip,
        gas=gas,
        to=to,
        value_wei=value,
        data=data,
    ).sign(key)
    fields = {
        "type": 2,
        "chainId": 31415,
        "nonce": nonce,
        "maxPriorityFeePerGas": tip,
        "maxFeePerGas": fee + tip,
        "gas": gas,
        "value": value,
        "data": data,
    }
    theirs = Account.sign_transaction(fields if to is None else {**fields, "to": to}, key.secret)
    assert ours.raw == bytes(theirs.raw_transaction)
    assert ours.hash == bytes(theirs.hash)


@given(nested)
def test_encode_rlp_any_nesting_equals_rlp_package(item: list[object] | bytes) -> None:
    """Nested byte strings encode as the rlp package encodes them."""
    assert encode_rlp(item) == rlp.encode(item)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 255, 256, 70_000])
def test_encode_rlp_length_border_equals_rlp_package(size: int) -> None:
    """Strings and lists at the borders of the length prefix encode right."""
    assert encode_rlp(b"\x80" * size) == rlp.encode(b"\x80" * size)
    assert encode_rlp([b"\x01"] * size) == rlp.encode([b"\x01"] * size)


def test_created_address_known_example_matches() -> None:
    """A contract's address follows from sender and nonce as in the well-known example of CryptoKitties' deployer."""
    sender = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    assert created_address(sender, 0).hex() == "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    assert created_address(sender, 1).hex() == "343c43a37d37dff08ae8c4a11544c718abb4fcf8"
