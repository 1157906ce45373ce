"""Methods that search logs, and the filters that are polled."""

from __future__ import annotations

from typing import Any

from steelyard.chain.embedded import queries
from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.filters import Filter, Filters
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.methods.blocks import find_header, require_header
from steelyard.chain.embedded.params import BlockRef, LogQuery, expect, log_query
from steelyard.chain.embedded.queries import LogFilter
from steelyard.chain.embedded.receipts import MinedLog
from steelyard.chain.embedded.views import log_view, to_hex
from steelyard.errors import BadRequest, Refusal, TooLarge

MAX_RANGE_BLOCKS = 100_000
MAX_RESULTS = 10_000


class LogMethods:
    """What contracts emitted."""

    def __init__(self, chain: EmbeddedChain, filters: Filters) -> None:
        self._chain = chain
        self._filters = filters

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "eth_getLogs": self.logs,
            "eth_newFilter": self.new_filter,
            "eth_newBlockFilter": self.new_block_filter,
            "eth_newPendingTransactionFilter": self.new_transaction_filter,
            "eth_getFilterChanges": self.changes,
            "eth_getFilterLogs": self.filter_logs,
            "eth_uninstallFilter": self.uninstall,
        }

    async def logs(self, params: list[Any]) -> list[dict[str, Any]]:
        """Return the logs that a filter object wants."""
        expect(params, 1, 1)
        return await self._search(log_query(params[0]))

    async def new_filter(self, params: list[Any]) -> str:
        """Install a filter for logs to come."""
        expect(params, 1, 1)
        return self._filters.install("logs", self._chain.head.number, log_query(params[0]))

    async def new_block_filter(self, params: list[Any]) -> str:
        """Install a filter for the hashes of blocks to come."""
        expect(params, 0, 0)
        return self._filters.install("blocks", self._chain.head.number)

    async def new_transaction_filter(self, params: list[Any]) -> str:
        """Install a filter for the hashes of transactions to come, told once they are mined."""
        expect(params, 0, 1)
        return self._filters.install("transactions", self._chain.head.number)

    async def changes(self, params: list[Any]) -> list[Any]:
        """Return what a filter's client hasn't been told of."""
        known = self._get(params)
        first, last = known.next_block, self._chain.head.number
        known.next_block = last + 1
        db = self._chain.store.reader()
        if known.kind == "blocks":
            hashes = [queries.load_block_hash(db, number) for number in range(first, last + 1)]
            return [to_hex(block_hash) for block_hash in hashes if block_hash is not None]
        if known.kind == "transactions":
            numbers = range(first, last + 1)
            return [to_hex(tx) for number in numbers for tx in queries.load_transaction_hashes(db, number)]
        try:
            return await self._changed_logs(known, first, last)
        except BaseException:
            known.next_block = first  # they were not told
            raise

    async def _changed_logs(self, known: Filter, first: int, last: int) -> list[dict[str, Any]]:
        query = known.query
        if query is None or query.block_hash is not None:
            return []  # a block that is named by its hash never changes
        if isinstance(query.first, int):
            first = max(first, query.first)
        if isinstance(query.last, int):
            last = min(last, query.last)
        return [log_view(log) for log in await self._find(query.wanted, first, last)]

    async def filter_logs(self, params: list[Any]) -> list[dict[str, Any]]:
        """Return every log that an installed filter wants."""
        known = self._get(params)
        if known.kind != "logs" or known.query is None:
            raise Refusal("filter not found: it is not a filter for logs", code="filter_not_found")
        return await self._search(known.query)

    async def uninstall(self, params: list[Any]) -> bool:
        """Forget a filter."""
        expect(params, 1, 1)
        return isinstance(params[0], str) and self._filters.uninstall(params[0])

    def _get(self, params: list[Any]) -> Filter:
        expect(params, 1, 1)
        if not isinstance(params[0], str):
            raise BadRequest("a filter's id is hex", param="filter")
        return self._filters.get(params[0])

    async def _search(self, query: LogQuery) -> list[dict[str, Any]]:
        if query.block_hash is not None:
            header = find_header(self._chain, query.block_hash)
            if header is None:
                raise Refusal(f"unknown block {to_hex(query.block_hash)}", code="header_not_found")
            first = last = header.number
        else:
            first, last = self._number(query.first), self._number(query.last)
            if isinstance(query.first, int) and isinstance(query.last, int) and first > last:
                raise BadRequest(f"invalid block range params: fromBlock {first} is after toBlock {last}")
        return [log_view(log) for log in await self._find(query.wanted, first, min(last, self._chain.head.number))]

    def _number(self, ref: BlockRef) -> int:
        return ref if isinstance(ref, int) else require_header(self._chain, ref).number

    async def _find(self, wanted: LogFilter, first: int, last: int) -> list[MinedLog]:
        if last - first >= MAX_RANGE_BLOCKS:
            raise TooLarge(
                f"block range too large: {first} to {last} is {last - first + 1} blocks, "
                f"at most {MAX_RANGE_BLOCKS} a query"
            )
        if first > last:
            return []
        store = self._chain.store
        logs = await self._chain.read(
            lambda: queries.find_logs(store.reader(), wanted, first, last, limit=MAX_RESULTS + 1)
        )
        if len(logs) > MAX_RESULTS:
            raise TooLarge(
                f"query returned more than {MAX_RESULTS} results: ask for fewer blocks, "
                f"blocks {first} to {logs[MAX_RESULTS - 1].block_number - 1} fit"
            )
        return logs
