"""services/rpc/pinning.py: which requests have one answer, and which of those may be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.services.rpc.catalogue import find_family

HASH = "0x" + "ab" * 32
HEX = "ab" * 32
PLAIN = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"


@pytest.mark.parametrize(
    ("chain", "method", "params", "kind", "number"),
    [
        ("eth", "eth_chainId", [], "always", None),
        ("eth", "eth_getBalance", ["0x1", "0x5"], "block", 5),
        ("eth", "eth_getBalance", ["0x1", "earliest"], "block", 0),
        ("eth", "eth_getBalance", ["0x1", HASH], "hash", None),
        ("eth", "eth_getBalance", ["0x1", {"blockHash": HASH}], "hash", None),
        ("eth", "eth_getBalance", ["0x1", {"blockNumber": "0xff"}], "block", 255),
        ("eth", "eth_getStorageAt", ["0x1", "0x0", "0x10"], "block", 16),
        ("eth", "eth_getBlockByHash", [HASH, False], "hash", None),
        ("eth", "eth_getTransactionByHash", [HASH], "mined", None),
        ("eth", "eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x9"}], "block", 9),
        ("eth", "eth_getLogs", [{"blockHash": HASH}], "hash", None),
        ("solana", "getBlock", [430, {"encoding": "json"}], "block", 430),
        ("cosmoshub", "block", {"height": "77"}, "block", 77),
        ("cosmoshub", "block", ["77"], "block", 77),
        ("cosmoshub", "abci_query", {"path": "p", "data": "", "height": "9", "prove": False}, "block", 9),
        ("bitcoin", "getblockhash", [5], "block", 5),
        ("bitcoin", "getblock", [HEX, 0], "hash", None),
        ("bitcoin", "getblock", [HEX, False], "hash", None),
        ("near", "block", {"block_id": 9}, "block", 9),
        ("near", "query", {"request_type": "view_account", "block_id": PLAIN}, "hash", None),
        ("starknet", "starknet_call", [{"a": 1}, {"block_number": 7}], "block", 7),
        ("starknet", "starknet_call", {"request": {}, "block_id": {"block_number": 7}}, "block", 7),
        ("polkadot", "chain_getBlock", [HASH], "hash", None),
    ],
)
def test_pinned_request_is_deterministic(chain: str, method: str, params: Any, kind: str, number: int | None) -> None:
    """A block by number or hash, a transaction by hash, and constants have one answer, in every family's words."""
    family = find_family(chain)
    assert family is not None
    pin = family.pin(method, json.dumps(params).encode())
    assert pin is not None
    assert (pin.kind, pin.number) == (kind, number)


@pytest.mark.parametrize(
    ("chain", "method", "params"),
    [
        ("eth", "eth_getBalance", ["0x1", "latest"]),
        ("eth", "eth_getBalance", ["0x1", "pending"]),
        ("eth", "eth_getBalance", ["0x1", "finalized"]),
        ("eth", "eth_getBalance", ["0x1"]),
        ("eth", "eth_getBalance", ["0x1", None]),
        ("eth", "eth_getBalance", ["0x1", True]),
        ("eth", "eth_getBalance", ["0x1", -1]),
        ("eth", "eth_getBalance", ["0x1", {"blockHash": "0x1"}]),
        ("eth", "eth_getBalance", ["0x1", {}]),
        ("eth", "eth_getBalance", {"address": "0x1"}),
        ("eth", "eth_blockNumber", []),
        ("eth", "eth_gasPrice", []),
        ("eth", "eth_estimateGas", [{}, "0x5"]),
        ("eth", "eth_getLogs", [{"fromBlock": "0x1"}]),
        ("eth", "eth_getLogs", [{"fromBlock": "0x1", "toBlock": "latest"}]),
        ("eth", "eth_getLogs", []),
        ("eth", "eth_someNewMethod", ["0x5"]),
        ("cosmoshub", "block", {}),
        ("cosmoshub", "block", {"height": "0"}),
        ("cosmoshub", "status", []),
        ("bitcoin", "getblock", [HEX, 1]),
        ("bitcoin", "getblock", [HEX]),
        ("near", "query", {"finality": "final"}),
        ("near", "query", ["account/a", ""]),
        ("starknet", "starknet_call", [{}, "latest"]),
        ("polkadot", "chain_getBlock", []),
        ("solana", "getBalance", [PLAIN]),
    ],
)
def test_request_that_moves_with_the_chain_is_not_pinned(chain: str, method: str, params: Any) -> None:
    """Tags, blocks left out, unknown methods and answers that grow (confirmations) are never called deterministic."""
    family = find_family(chain)
    assert family is not None
    assert not family.is_deterministic(method, json.dumps(params).encode())


@pytest.mark.parametrize("params", [b"", b"[", b"\xff", b"[" * 5_000, b'["0x1",' + b" " * 20_000 + b'"0x5"]', b"5"])
def test_params_that_cannot_be_read_pin_nothing(params: bytes) -> None:
    """Untrusted parameters never raise, and never count as pinned."""
    family = find_family("eth")
    assert family is not None
    assert not family.is_deterministic("eth_getBalance", params)


def test_answers_are_kept_only_below_the_final_depth() -> None:
    """A block may be reorganised until it is deep enough; a hash and a constant can't; an unknown height keeps none."""
    family = find_family("eth")
    assert family is not None
    by_number = b'["0x1","0x64"]'
    assert family.is_cacheable("eth_getBalance", by_number, 100 + 64)
    assert not family.is_cacheable("eth_getBalance", by_number, 100 + 63)
    assert not family.is_cacheable("eth_getBalance", by_number, None)
    assert family.is_cacheable("eth_getBlockByHash", json.dumps([HASH, True]).encode(), None)
    assert family.is_cacheable("eth_chainId", b"", None)
    assert not family.is_cacheable("eth_getTransactionReceipt", json.dumps([HASH]).encode(), 10**9)
    assert not family.is_cacheable("eth_getBalance", b'["0x1","latest"]', 10**9)
