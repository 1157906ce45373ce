"""The running chain: one database, one engine, one head; what the RPC methods ask.

1. The event loop owns the head and the pool; one thread owns execution and the database's writer (`producer.py`); a few
   threads serve long reads. Nothing else is shared, but committed rows and immutable nodes.
2. A new file gets its genesis block in one transaction; an old one keeps its own genesis, whatever the settings say.

Law: docs/spec/embedded-chain.md, section 4.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

from steelyard.chain.embedded import queries
from steelyard.chain.embedded.engine import Account, BlockContext, Engine
from steelyard.chain.embedded.header import Header, next_base_fee
from steelyard.chain.embedded.nodes import NewNodes
from steelyard.chain.embedded.producer import Producer
from steelyard.chain.embedded.receipts import SealedBlock
from steelyard.chain.embedded.sealing import build_genesis, context_of, next_context
from steelyard.chain.embedded.settings import BLOCK_GAS_LIMIT, FUND_WEI, ChainSettings
from steelyard.chain.embedded.store import Store
from steelyard.chain.embedded.transactions import Transaction, decode_transaction
from steelyard.chain.permit2 import genesis_codes
from steelyard.errors import ConfigError

READ_THREADS = 3

P = ParamSpec("P")
R = TypeVar("R")


class EmbeddedChain:
    """One chain over one database; use it as an async context manager.

    Args:
        settings: checked when they were made.
        engine: executes transactions; any that keeps the port.
        clock: the wall's, in Unix seconds.
    """

    def __init__(self, settings: ChainSettings, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.listeners: set[Callable[[SealedBlock], None]] = set()
        self._clock = clock
        self.store = Store(settings.db, is_full_sync=settings.is_full_sync)
        try:
            if self.store.is_new:
                self._create(settings)
            self.chain_id = int(self.store.meta("chain_id") or 0)
            self._time_offset_s = int(self.store.meta("time_offset_s") or 0)
            if self.chain_id != settings.chain_id:
                raise ConfigError(
                    f"the chain in {settings.db} has chain id {self.chain_id}, not {settings.chain_id}: "
                    "start it with its own id, or name another file with --db",
                    param="chain_id",
                )
            self.head = queries.load_head(self.store.reader())
        except BaseException:
            self.store.close()
            raise
        self._accounts: dict[bytes, Account] = {}
        self._producer = Producer(self, heartbeat_s=settings.heartbeat_s)
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="chain-read")

    def _create(self, settings: ChainSettings) -> None:
        nodes = NewNodes(None)
        balances = dict.fromkeys(settings.fund, FUND_WEI)
        codes = genesis_codes(settings.chain_id)
        genesis = build_genesis(
            self.engine, nodes, balances, codes, gas_limit=BLOCK_GAS_LIMIT, now_s=int(self._clock())
        )
        self.store.create(settings.chain_id, genesis, nodes)

    async def __aenter__(self) -> EmbeddedChain:
        await self._producer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._producer.stop()
        self._read_threads.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    async def submit(self, raw: bytes) -> bytes:
        """Take a signed transaction; return its hash once it is committed, in a block or in the queue.

        Raises:
            Refusal: malformed, or not acceptable now; worded as geth words it.
            ChainError: its block could not be committed.
        """
        tx = decode_transaction(raw, self.chain_id)
        await self._producer.submit(tx)
        return tx.hash

    async def mine(self) -> None:
        """Seal a block now, empty if nothing waits."""
        await self._producer.mine()

    async def increase_time(self, seconds: int) -> int:
        """Move the chain's clock forward from the next block on; return by how much it is ahead of the wall's."""
        offset = self._time_offset_s = self._time_offset_s + seconds
        await self._producer.set_meta("time_offset_s", str(offset))
        return offset

    @property
    def now_s(self) -> int:
        """The chain's clock: the wall's and what was added to it."""
        return int(self._clock()) + self._time_offset_s

    def pooled(self, tx_hash: bytes) -> Transaction | None:
        """Return a transaction that waits to be mined, None if there is none of that hash."""
        return self._producer.pool.get(tx_hash)

    def pending_transactions(self) -> list[Transaction]:
        """Return what the next block would hold, in order."""
        return self._producer.pool.executable(next_base_fee(self.head))

    def pending_nonce(self, address: bytes) -> int:
        """Return the nonce that follows what an address has mined and pooled."""
        return self._producer.pool.next_nonce(address, self.account(address).nonce)

    async def read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a read that may take long (a call, a search) beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_threads, lambda: function(*args, **kwargs))

    def account(self, address: bytes) -> Account:
        """Return an address' nonce and balance as of the head."""
        account = self._accounts.get(address)
        if account is None:
            account = self.engine.account(self.store.nodes, self.head.state_root, address)
            self._accounts[address] = account
        return account

    def set_head(self, head: Header) -> None:
        """Take over the newest committed header; called by the producer."""
        self.head = head
        self._accounts.clear()

    def context_of(self, header: Header) -> BlockContext:
        """Return a sealed block as instructions see it."""
        return context_of(header, self.chain_id, self._ancestor_hash)

    def next_context(self) -> BlockContext:
        """Return the block that would be sealed now as instructions see it."""
        return next_context(self.head, self.chain_id, self.now_s, self._ancestor_hash)

    def _ancestor_hash(self, number: int) -> bytes | None:
        return queries.load_block_hash(self.store.reader(), number)
