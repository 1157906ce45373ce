"""Blocks, transactions, receipts and logs in the shapes that Ethereum clients expect.

1. Quantities are hex without leading zeros, data is hex of whole bytes, both with 0x.

Law: the Ethereum JSON-RPC specification (ethereum/execution-apis, `schemas`).
"""

from __future__ import annotations

from typing import Any

from steelyard.chain.embedded.header import (
    EMPTY_REQUESTS_HASH,
    EMPTY_TRIE_ROOT,
    EMPTY_UNCLES_HASH,
    EXTRA_DATA,
    POST_MERGE_NONCE,
    Header,
)
from steelyard.chain.embedded.receipts import MinedLog, MinedTransaction, logs_bloom
from steelyard.chain.embedded.transactions import Transaction
from steelyard.protocol.hashing import ZERO32


def to_hex(data: bytes) -> str:
    """Return bytes as hex data."""
    return "0x" + data.hex()


def header_view(header: Header) -> dict[str, Any]:
    """Return a header as `newHeads` sends it."""
    return {
        "number": hex(header.number),
        "hash": to_hex(header.hash),
        "parentHash": to_hex(header.parent_hash),
        "nonce": to_hex(POST_MERGE_NONCE),
        "sha3Uncles": to_hex(EMPTY_UNCLES_HASH),
        "logsBloom": to_hex(header.bloom),
        "transactionsRoot": to_hex(header.transactions_root),
        "stateRoot": to_hex(header.state_root),
        "receiptsRoot": to_hex(header.receipts_root),
        "miner": to_hex(header.coinbase),
        "difficulty": "0x0",
        "extraData": to_hex(EXTRA_DATA),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "timestamp": hex(header.timestamp_s),
        "mixHash": to_hex(header.mix_hash),
        "baseFeePerGas": hex(header.base_fee_wei),
        "withdrawalsRoot": to_hex(EMPTY_TRIE_ROOT),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": to_hex(ZERO32),
        "requestsHash": to_hex(EMPTY_REQUESTS_HASH),
    }


def block_view(header: Header, size_bytes: int, transactions: list[Any]) -> dict[str, Any]:
    """Return a block; `transactions` are hashes or whole transactions, ready to send."""
    return {
        **header_view(header),
        "size": hex(size_bytes),
        "transactions": transactions,
        "uncles": [],
        "withdrawals": [],
    }


def pending_block_view(header: Header, transactions: list[Any]) -> dict[str, Any]:
    """Return the block that would come next; what it hasn't got before it is sealed is null."""
    unknown: dict[str, Any] = {"hash": None, "nonce": None, "logsBloom": None, "miner": None}
    return {**block_view(header, len(header.encode()), transactions), **unknown}


def mined_transaction_view(mined: MinedTransaction, header: Header) -> dict[str, Any]:
    """Return a transaction with the block that holds it."""
    return {
        **_transaction_view(mined.transaction),
        "blockHash": to_hex(header.hash),
        "blockNumber": hex(header.number),
        "transactionIndex": hex(mined.position),
        "gasPrice": hex(mined.transaction.effective_gas_price(header.base_fee_wei)),
    }


def pooled_transaction_view(tx: Transaction) -> dict[str, Any]:
    """Return a transaction that no block holds yet."""
    return {**_transaction_view(tx), "blockHash": None, "blockNumber": None, "transactionIndex": None}


def _transaction_view(tx: Transaction) -> dict[str, Any]:
    view: dict[str, Any] = {
        "hash": to_hex(tx.hash),
        "type": hex(tx.type_id),
        "chainId": hex(tx.chain_id),
        "from": to_hex(tx.sender),
        "to": to_hex(tx.to) if tx.to else None,
        "nonce": hex(tx.nonce),
        "gas": hex(tx.gas),
        "gasPrice": hex(tx.max_fee_per_gas),
        "value": hex(tx.value),
        "input": to_hex(tx.data),
        "v": hex(tx.v),
        "r": hex(tx.r),
        "s": hex(tx.s),
    }
    if tx.type_id >= 1:
        view["yParity"] = hex(tx.v)
        view["accessList"] = [
            {"address": to_hex(address), "storageKeys": [f"0x{slot:064x}" for slot in slots]}
            for address, slots in tx.access_list
        ]
    if tx.type_id == 2:
        view["maxFeePerGas"] = hex(tx.max_fee_per_gas)
        view["maxPriorityFeePerGas"] = hex(tx.max_priority_fee_per_gas)
    return view


def receipt_view(mined: MinedTransaction, header: Header, logs: list[MinedLog]) -> dict[str, Any]:
    """Return a transaction's receipt; `logs` are its own."""
    tx = mined.transaction
    created = mined.created
    return {
        "transactionHash": to_hex(tx.hash),
        "transactionIndex": hex(mined.position),
        "blockHash": to_hex(header.hash),
        "blockNumber": hex(header.number),
        "from": to_hex(tx.sender),
        "to": to_hex(tx.to) if tx.to else None,
        "type": hex(tx.type_id),
        "status": hex(mined.status),
        "gasUsed": hex(mined.gas_used),
        "cumulativeGasUsed": hex(mined.cumulative_gas_used),
        "effectiveGasPrice": hex(tx.effective_gas_price(header.base_fee_wei)),
        "contractAddress": to_hex(created) if created is not None else None,
        "logs": [log_view(log) for log in logs],
        "logsBloom": to_hex(logs_bloom(entry.log for entry in logs)),
    }


def log_view(mined: MinedLog) -> dict[str, Any]:
    """Return a log with where it stands."""
    return {
        "address": to_hex(mined.log.address),
        "topics": [to_hex(topic) for topic in mined.log.topics],
        "data": to_hex(mined.log.data),
        "blockNumber": hex(mined.block_number),
        "blockHash": to_hex(mined.block_hash),
        "blockTimestamp": hex(mined.block_timestamp_s),
        "transactionHash": to_hex(mined.transaction_hash),
        "transactionIndex": hex(mined.transaction_position),
        "logIndex": hex(mined.index),
        "removed": False,
    }
