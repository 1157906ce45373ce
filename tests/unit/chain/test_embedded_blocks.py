"""Headers, tries and blooms, against py-evm's own."""

from __future__ import annotations

import rlp
from eth.db.trie import make_trie_root_and_nodes
from eth.rlp.logs import Log as ReferenceLog
from eth.rlp.receipts import Receipt
from eth.vm.forks.london.headers import calculate_expected_base_fee_per_gas
from eth.vm.forks.prague.blocks import PragueBlockHeader
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chain.embedded.header import EMPTY_TRIE_ROOT, Header, decode_header, next_base_fee
from steelyard.chain.embedded.receipts import Log, encode_receipt, logs_bloom, merge_blooms
from steelyard.chain.embedded.tries import ordered_trie_root

HEADER = Header(
    number=300,
    parent_hash=b"\x01" * 32,
    state_root=b"\x02" * 32,
    transactions_root=b"\x03" * 32,
    receipts_root=b"\x04" * 32,
    bloom=b"\x00" * 255 + b"\x05",
    gas_limit=30_000_000,
    gas_used=21_000,
    timestamp_s=1_700_000_000,
    base_fee_wei=7,
).seal()

logs = st.lists(
    st.builds(
        Log,
        st.binary(min_size=20, max_size=20),
        st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple),
        st.binary(max_size=40),
    ),
    max_size=4,
)


class _Item:
    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def encode(self) -> bytes:
        return self._encoded


def test_header_hash_and_fields_are_py_evms() -> None:
    """A header's RLP decodes in py-evm to the same fields and hash, and in ours to the same header."""
    reference = rlp.decode(HEADER.encode(), PragueBlockHeader)
    assert reference.hash == HEADER.hash
    assert (reference.block_number, reference.gas_used, reference.timestamp) == (300, 21_000, 1_700_000_000)
    assert reference.coinbase == HEADER.coinbase
    assert decode_header(HEADER.encode(), HEADER.hash) == HEADER


@given(st.integers(0, 30_000_000), st.integers(0, 10**12))
def test_next_base_fee_is_py_evms(gas_used: int, base_fee: int) -> None:
    """The base fee after any fullness is the one that EIP-1559 and py-evm say."""
    fields = {name: getattr(HEADER, name) for name in Header.__slots__} | {"gas_used": gas_used}
    header = Header(**{**fields, "base_fee_wei": base_fee})
    reference = rlp.decode(header.encode(), PragueBlockHeader)
    assert next_base_fee(header) == calculate_expected_base_fee_per_gas(reference)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=300))
def test_ordered_trie_root_is_py_evms(items: list[bytes]) -> None:
    """Any list of byte strings, short enough to be inlined or not, has the root that py-evm works out."""
    expected = make_trie_root_and_nodes(tuple(_Item(item) for item in items))[0]
    assert ordered_trie_root(items) == expected


def test_ordered_trie_root_of_nothing_is_the_empty_root() -> None:
    """No items, the well-known root."""
    assert ordered_trie_root([]) == EMPTY_TRIE_ROOT


@given(logs, st.integers(0, 1), st.integers(0, 30_000_000))
def test_receipt_and_bloom_are_py_evms(entries: list[Log], status: int, gas: int) -> None:
    """A receipt encodes and blooms as py-evm's does, bare for legacy and with its type's byte otherwise."""
    reference = Receipt(
        state_root=b"\x01" if status else b"",
        gas_used=gas,
        logs=[ReferenceLog(log.address, [int.from_bytes(t, "big") for t in log.topics], log.data) for log in entries],
    )
    bloom = logs_bloom(entries)
    assert int.from_bytes(bloom, "big") == reference.bloom
    assert encode_receipt(0, status, gas, bloom, entries) == rlp.encode(reference)
    assert encode_receipt(2, status, gas, bloom, entries) == b"\x02" + rlp.encode(reference)
    assert merge_blooms([bloom, logs_bloom([])]) == bloom
