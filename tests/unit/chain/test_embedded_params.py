"""Parameters from clients: read strictly, refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.chain.embedded import params
from steelyard.chain.embedded.queries import LogFilter
from steelyard.chain.embedded.receipts import Log
from steelyard.errors import BadRequest

ADDRESS = "0x" + "11" * 20
HASH = "0x" + "22" * 32


@pytest.mark.parametrize("value", [None, 5, "", "0x", "12", "0xzz", "0x-1", "-0x1", "0x1_0", hex(2**256), [], {}])
def test_quantity_malformed_is_refused(value: Any) -> None:
    """A quantity is 0x and hex digits below 2^256, nothing else."""
    with pytest.raises(BadRequest, match="invalid thing"):
        params.quantity(value, "thing")


@pytest.mark.parametrize("value", [None, 5, "", "12", "0x1", "0xzz", "0x 1", "0x11 11", ADDRESS + "1", b"\x01"])
def test_data_malformed_is_refused(value: Any) -> None:
    """Data is 0x and whole bytes in hex."""
    with pytest.raises(BadRequest, match="invalid thing"):
        params.data(value, "thing")


def test_data_of_a_wrong_size_names_both_sizes() -> None:
    """An address has 20 bytes."""
    with pytest.raises(BadRequest, match="want 20 bytes, have 3"):
        params.address("0x010203")


def test_block_ref_understands_names_numbers_hashes_and_objects() -> None:
    """All ways to name a block, EIP-1898's object included; what is final is what is newest."""
    wanted: list[tuple[Any, Any]] = [
        ("latest", "latest"),
        ("safe", "latest"),
        ("finalized", "latest"),
        ("pending", "pending"),
        ("earliest", "earliest"),
        ("0x10", 16),
        (HASH, b"\x22" * 32),
        ({"blockHash": HASH, "requireCanonical": True}, b"\x22" * 32),
        ({"blockNumber": "0x2"}, 2),
    ]
    for value, expected in wanted:
        assert params.block_ref(value) == expected
    for value in ("newest", 5, None, {}, {"blockHash": HASH, "blockNumber": "0x1"}, {"blockNumber": HASH + "0"}):
        with pytest.raises(BadRequest):
            params.block_ref(value)


def test_call_params_reads_every_field() -> None:
    """A call's fields, defaults included; `input` and `data` are one."""
    empty = params.call_params({})
    assert (empty.sender, empty.to, empty.gas, empty.value, empty.data) == (bytes(20), b"", None, 0, b"")
    full = params.call_params(
        {
            "from": ADDRESS,
            "to": ADDRESS,
            "gas": "0x5208",
            "value": "0x1",
            "input": "0x0102",
            "data": "0x0102",
            "maxFeePerGas": "0x5",
            "maxPriorityFeePerGas": "0x1",
            "accessList": [{"address": ADDRESS, "storageKeys": [HASH]}],
            "chainId": "0x1",
        }
    )
    assert (full.sender, full.gas, full.data, full.max_fee_per_gas) == (b"\x11" * 20, 21_000, b"\x01\x02", 5)
    assert full.access_list == ((b"\x11" * 20, (int.from_bytes(b"\x22" * 32, "big"),)),)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"to": "0x1"},
        {"gas": 5},
        {"data": "0x01", "input": "0x02"},
        {"gasPrice": "0x1", "maxFeePerGas": "0x1"},
        {"accessList": {}},
        {"accessList": [5]},
        {"accessList": [{}]},
    ],
)
def test_call_params_malformed_is_refused(value: Any) -> None:
    """A call with a wrong or contradictory field is refused."""
    with pytest.raises(BadRequest):
        params.call_params(value)


def test_log_query_reads_addresses_topics_and_blocks() -> None:
    """One address or many, topics with OR lists and nulls, a range or a block's hash."""
    query = params.log_query({"address": ADDRESS, "topics": [HASH, None, [HASH, HASH], []], "fromBlock": "0x1"})
    assert query.wanted == LogFilter((b"\x11" * 20,), ((b"\x22" * 32,), None, (b"\x22" * 32,) * 2, None))
    assert (query.first, query.last, query.block_hash) == (1, "latest", None)
    assert params.log_query({"blockHash": HASH}).block_hash == b"\x22" * 32
    wrong: list[Any] = [
        None,
        {"blockHash": HASH, "fromBlock": "0x1"},
        {"topics": [HASH] * 5},
        {"topics": HASH},
        {"topics": ["0x01"]},
        {"address": ["0x01"]},
        {"address": [ADDRESS] * 1_001},
        {"topics": [[HASH] * 1_001]},
    ]
    for value in wrong:
        with pytest.raises(BadRequest):
            params.log_query(value)


def test_log_filter_matches_as_the_specification_says() -> None:
    """Addresses are alternatives, topics are places, null is any, and a missing topic matches nothing."""
    one, two = b"\x01" * 32, b"\x02" * 32
    log = Log(b"\x11" * 20, (one, two), b"")
    assert LogFilter().matches(log)
    assert LogFilter((b"\x33" * 20, b"\x11" * 20), (None, (one, two))).matches(log)
    assert not LogFilter((b"\x33" * 20,)).matches(log)
    assert not LogFilter((), ((two,),)).matches(log)
    assert not LogFilter((), (None, None, None)).matches(log)


def test_expect_counts_parameters() -> None:
    """Too few and too many are both said in numbers."""
    params.expect([1, 2], 1, 2)
    with pytest.raises(BadRequest, match="missing value for required argument 0"):
        params.expect([], 1, 2)
    with pytest.raises(BadRequest, match="too many arguments, want at most 0"):
        params.expect([1], 0, 0)


def test_number_or_quantity_takes_both_writings() -> None:
    """Development tools send seconds as numbers or as hex."""
    assert params.number_or_quantity(60, "seconds") == params.number_or_quantity("0x3c", "seconds") == 60
    for value in (-1, True, 2**63, "60", None):
        with pytest.raises(BadRequest):
            params.number_or_quantity(value, "seconds")
