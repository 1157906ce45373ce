"""Methods that read blocks, transactions and receipts."""

from __future__ import annotations

from typing import Any

from steelyard.chain.embedded import queries
from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.header import EMPTY_BLOOM, EMPTY_TRIE_ROOT, Header
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.params import BlockRef, block_ref, data, expect, optional, quantity
from steelyard.chain.embedded.receipts import MinedTransaction
from steelyard.chain.embedded.views import (
    block_view,
    mined_transaction_view,
    pending_block_view,
    pooled_transaction_view,
    receipt_view,
    to_hex,
)
from steelyard.errors import BadRequest, Refusal


def find_header(chain: EmbeddedChain, ref: BlockRef) -> Header | None:
    """Return the header that a reference means, None if there is none; `pending` is read as the head."""
    if ref in ("latest", "pending") or ref == chain.head.number:
        return chain.head
    if isinstance(ref, bytes):
        return queries.load_header_by_hash(chain.store.reader(), ref)
    return queries.load_header(chain.store.reader(), ref if isinstance(ref, int) else 0)


def require_header(chain: EmbeddedChain, ref: BlockRef) -> Header:
    """Return the header that a reference means; raises Refusal in geth's words if there is none."""
    header = find_header(chain, ref)
    if header is None:
        shown = to_hex(ref) if isinstance(ref, bytes) else ref
        raise Refusal(f"header not found: {shown} (the head is {chain.head.number})", code="header_not_found")
    return header


class BlockMethods:
    """What stands in blocks."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "eth_blockNumber": self.block_number,
            "eth_getBlockByNumber": self.block,
            "eth_getBlockByHash": self.block,
            "eth_getHeaderByNumber": self.header,
            "eth_getHeaderByHash": self.header,
            "eth_getBlockTransactionCountByNumber": self.transaction_count,
            "eth_getBlockTransactionCountByHash": self.transaction_count,
            "eth_getUncleCountByBlockNumber": self.uncle_count,
            "eth_getUncleCountByBlockHash": self.uncle_count,
            "eth_getBlockReceipts": self.block_receipts,
            "eth_getTransactionByHash": self.transaction,
            "eth_getTransactionByBlockNumberAndIndex": self.transaction_at,
            "eth_getTransactionByBlockHashAndIndex": self.transaction_at,
            "eth_getRawTransactionByHash": self.raw_transaction,
            "eth_getTransactionReceipt": self.receipt,
        }

    async def block_number(self, params: list[Any]) -> str:
        """Return the head's number."""
        expect(params, 0, 0)
        return hex(self._chain.head.number)

    async def block(self, params: list[Any]) -> dict[str, Any] | None:
        """Return a block by number, name or hash, with its transactions whole or as hashes."""
        expect(params, 1, 2)
        is_full = optional(params, 1, False)
        if not isinstance(is_full, bool):
            raise BadRequest("invalid argument 1: true for whole transactions, false for their hashes")
        ref = block_ref(params[0])
        if ref == "pending":
            return self._pending_block(is_full)
        header = find_header(self._chain, ref)
        if header is None:
            return None
        db = self._chain.store.reader()
        size_bytes = queries.load_size(db, header.number)
        if not is_full:
            hashes = queries.load_transaction_hashes(db, header.number)
            return block_view(header, size_bytes, [to_hex(tx_hash) for tx_hash in hashes])
        return block_view(
            header, size_bytes, [mined_transaction_view(mined, header) for mined in self._load_mined(header)]
        )

    def _pending_block(self, is_full: bool) -> dict[str, Any]:
        head, context = self._chain.head, self._chain.next_context()
        header = Header(
            number=context.number,
            parent_hash=head.hash,
            state_root=head.state_root,
            transactions_root=EMPTY_TRIE_ROOT,
            receipts_root=EMPTY_TRIE_ROOT,
            bloom=EMPTY_BLOOM,
            gas_limit=context.gas_limit,
            gas_used=0,
            timestamp_s=context.timestamp_s,
            base_fee_wei=context.base_fee_wei,
        )
        pooled = self._chain.pending_transactions()
        return pending_block_view(
            header, [pooled_transaction_view(tx) for tx in pooled] if is_full else [to_hex(tx.hash) for tx in pooled]
        )

    async def header(self, params: list[Any]) -> dict[str, Any] | None:
        """Return a block without its transactions."""
        expect(params, 1, 1)
        block = await self.block([params[0], False])
        if block is not None:
            for body in ("transactions", "uncles", "withdrawals", "size"):
                del block[body]
        return block

    async def transaction_count(self, params: list[Any]) -> str | None:
        """Return how many transactions a block holds."""
        expect(params, 1, 1)
        header = find_header(self._chain, block_ref(params[0]))
        if header is None:
            return None
        return hex(len(queries.load_transaction_hashes(self._chain.store.reader(), header.number)))

    async def uncle_count(self, params: list[Any]) -> str | None:
        """Return zero for any block there is."""
        expect(params, 1, 1)
        return None if find_header(self._chain, block_ref(params[0])) is None else "0x0"

    async def block_receipts(self, params: list[Any]) -> list[dict[str, Any]] | None:
        """Return the receipts of a block, in order."""
        expect(params, 1, 1)
        header = find_header(self._chain, block_ref(params[0]))
        if header is None:
            return None
        logs = queries.load_logs_of_block(self._chain.store.reader(), header.number)
        return [
            receipt_view(mined, header, [log for log in logs if log.transaction_position == mined.position])
            for mined in self._load_mined(header)
        ]

    async def transaction(self, params: list[Any]) -> dict[str, Any] | None:
        """Return a transaction by hash, mined or pooled."""
        expect(params, 1, 1)
        tx_hash = data(params[0], "hash", size=32)
        mined = self._find_mined(tx_hash)
        if mined is not None:
            return mined_transaction_view(mined, require_header(self._chain, mined.block_number))
        pooled = self._chain.pooled(tx_hash)
        return None if pooled is None else pooled_transaction_view(pooled)

    async def transaction_at(self, params: list[Any]) -> dict[str, Any] | None:
        """Return a transaction by its block and its place in it."""
        expect(params, 2, 2)
        header = find_header(self._chain, block_ref(params[0]))
        position = quantity(params[1], "index", bits=31)
        if header is None:
            return None
        db = self._chain.store.reader()
        mined = queries.load_transaction_at(db, self._chain.chain_id, header.number, position)
        return None if mined is None else mined_transaction_view(mined, header)

    async def raw_transaction(self, params: list[Any]) -> str | None:
        """Return a transaction's bytes by hash, mined or pooled."""
        expect(params, 1, 1)
        tx_hash = data(params[0], "hash", size=32)
        mined = self._find_mined(tx_hash)
        tx = mined.transaction if mined is not None else self._chain.pooled(tx_hash)
        return None if tx is None else to_hex(tx.raw)

    async def receipt(self, params: list[Any]) -> dict[str, Any] | None:
        """Return a mined transaction's receipt, null before it is mined."""
        expect(params, 1, 1)
        mined = self._find_mined(data(params[0], "hash", size=32))
        if mined is None:
            return None
        logs = queries.load_logs_of_transaction(self._chain.store.reader(), mined.block_number, mined.position)
        return receipt_view(mined, require_header(self._chain, mined.block_number), logs)

    def _find_mined(self, tx_hash: bytes) -> MinedTransaction | None:
        return queries.load_transaction(self._chain.store.reader(), self._chain.chain_id, tx_hash)

    def _load_mined(self, header: Header) -> list[MinedTransaction]:
        return queries.load_transactions(self._chain.store.reader(), self._chain.chain_id, header.number)
