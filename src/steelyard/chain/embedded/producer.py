"""The production of blocks: what arrives together is mined together, and time passes when nothing arrives.

1. While one block is executed and committed, the next one gathers: no timer stands between a transaction and its block.
2. Nobody is told that a transaction is in before it is committed: in its block, or, if it must wait for an earlier
   nonce or a lower base fee, in the queue. A queued one that is replaced keeps its row until the other is committed.
3. A failure to commit fails those who wait for it; the head is read again from the file, and production goes on.
4. One thread executes and writes; what it is given and what it returns is immutable.

Law: docs/spec/embedded-chain.md, section 4.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import structlog

from steelyard.chain.embedded import queries
from steelyard.chain.embedded.engine import BlockContext
from steelyard.chain.embedded.header import Header, next_base_fee
from steelyard.chain.embedded.mempool import Mempool
from steelyard.chain.embedded.nodes import NewNodes
from steelyard.chain.embedded.sealing import BuiltBlock, build_block
from steelyard.chain.embedded.transactions import Transaction
from steelyard.errors import ChainError, Refusal, SteelyardError

if TYPE_CHECKING:
    from steelyard.chain.embedded.chain import EmbeddedChain

RETRY_AFTER_FAULT_S = 1.0

log = structlog.get_logger(__name__)

R = TypeVar("R")


class Producer:
    """Seals the blocks of one chain."""

    def __init__(self, chain: EmbeddedChain, *, heartbeat_s: float) -> None:
        self.pool = Mempool()
        self._chain = chain
        self._heartbeat_s = heartbeat_s
        self._queued: set[bytes] = set()  # hashes with a row in the queue
        self._waiters: dict[bytes, asyncio.Future[None]] = {}  # by hash: who waits for its block
        self._sealing: dict[bytes, Transaction] = {}  # what the block in the making may hold
        self._forced: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._last_block_at = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chain-block")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up the queue that the last process left, and begin."""
        chain = self._chain
        stale = []
        for tx in queries.load_queue(chain.store.reader(), chain.chain_id):
            try:
                self.pool.add(tx, chain.account(tx.sender), gas_limit=chain.head.gas_limit)
                self._queued.add(tx.hash)
            except Refusal as refusal:
                log.warning("queued_transaction_dropped", transaction=tx.hash.hex(), reason=refusal.message)
                stale.append(tx.hash)
        if stale:
            await self._in_thread(lambda: chain.store.change_queue(remove=stale))
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="embedded-chain")

    async def stop(self) -> None:
        """Stop after the block that is being sealed, if any."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all(ChainError("the chain is stopping"))
        self._thread.shutdown(wait=True)

    async def submit(self, tx: Transaction) -> None:
        """Return once a transaction is committed, in a block or in the queue; raises Refusal or ChainError."""
        chain = self._chain
        replaced = self.pool.add(tx, chain.account(tx.sender), gas_limit=chain.head.gas_limit)
        if replaced is not None and replaced.hash not in self._sealing:  # else the block decides between the two
            self._answer(replaced, Refusal(f"replaced by 0x{tx.hash.hex()}", code="replaced"))
        if self.pool.is_executable(tx, next_base_fee(chain.head)):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[tx.hash] = waiter
            self._wake.set()
            await waiter
            return
        try:
            await self._queue([tx], [] if replaced is None else [replaced])
        except sqlite3.Error as error:
            self.pool.remove(tx)
            raise ChainError(f"the transaction could not be queued: {error}") from error

    async def mine(self) -> None:
        """Return once a block, empty if nothing waits, is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._forced.append(done)
        self._wake.set()
        await done

    async def set_meta(self, key: str, value: str) -> None:
        """Commit a fact about the chain."""
        await self._in_thread(lambda: self._chain.store.set_meta(key, value))

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            try:
                await self._produce()
            except Exception as error:  # a supervisor: whatever failed, those who wait hear of it and the chain goes on
                log.exception("block_failed", number=self._chain.head.number + 1)
                self._chain.set_head(queries.load_head(self._chain.store.reader()))
                self._fail_all(ChainError(f"the block could not be committed: {error}"))
                self._last_block_at = time.monotonic()
                await asyncio.sleep(RETRY_AFTER_FAULT_S)

    async def _wait_for_work(self) -> None:
        timeout = max(self._last_block_at + self._heartbeat_s - time.monotonic(), 0) if self._heartbeat_s else None
        try:
            async with asyncio.timeout(timeout):  # wait_for may take a cancellation for its time-out
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _produce(self) -> None:
        forced = self._forced[:]
        is_due = bool(self._heartbeat_s) and time.monotonic() >= self._last_block_at + self._heartbeat_s
        is_wanted = is_due or bool(forced)  # even without a transaction
        chain = self._chain
        while True:
            transactions = self.pool.executable(next_base_fee(chain.head))
            if not transactions and not is_wanted:
                break
            parent, context = chain.head, chain.next_context()
            self._sealing = {tx.hash: tx for tx in transactions}
            built = await self._in_thread(lambda: self._build(parent, context, transactions, is_wanted))  # noqa: B023  # awaited here
            await self._settle(built, is_wanted)
            is_wanted = False
        for done in forced:
            self._forced.remove(done)
            if not done.done():
                done.set_result(None)

    def _build(
        self, parent: Header, context: BlockContext, transactions: Sequence[Transaction], is_wanted: bool
    ) -> BuiltBlock:
        store = self._chain.store
        nodes = NewNodes(store.nodes)
        built = build_block(self._chain.engine, nodes, parent, context, transactions)
        if built.block.transactions or is_wanted:
            hashes = [mined.transaction.hash for mined in built.block.transactions]
            store.commit_block(built.block, nodes, [tx_hash for tx_hash in hashes if tx_hash in self._queued])
        return built

    async def _settle(self, built: BuiltBlock, is_wanted: bool) -> None:
        gone: list[Transaction] = []  # never to be mined
        for tx, refusal in built.refused:
            self.pool.remove(tx)
            self._answer(tx, refusal)
            gone.append(tx)
        if built.block.transactions or is_wanted:
            self._chain.set_head(built.block.header)
            self._last_block_at = time.monotonic()
            mined = [mined.transaction for mined in built.block.transactions]
            for tx in self.pool.take_mined(mined):
                self._answer(tx, Refusal(f"nonce too low: tx nonce {tx.nonce} was taken by another transaction"))
                gone.append(tx)
            for tx in mined:
                self._queued.discard(tx.hash)
                self._answer(tx, None)
            for listener in tuple(self._chain.listeners):
                listener(built.block)
        for tx in self._sealing.values():
            if tx.hash in self._waiters and self.pool.get(tx.hash) is None:
                self._answer(tx, Refusal("replaced by a transaction with higher fees", code="replaced"))
        self._sealing = {}
        for tx in gone:
            if tx.hash in self._queued:
                log.warning("queued_transaction_dropped", transaction=tx.hash.hex())
        await self._queue(self._stranded(), gone)

    def _stranded(self) -> list[Transaction]:
        if not self._waiters:
            return []
        ready = {tx.hash for tx in self.pool.executable(next_base_fee(self._chain.head))}
        waiting = [self.pool.get(tx_hash) for tx_hash in self._waiters if tx_hash not in ready]
        return [tx for tx in waiting if tx is not None]

    async def _queue(self, transactions: Sequence[Transaction], gone: Iterable[Transaction] = ()) -> None:
        obsolete = [tx.hash for tx in gone if tx.hash in self._queued]
        if not transactions and not obsolete:
            return
        self._queued.update(tx.hash for tx in transactions)
        self._queued.difference_update(obsolete)
        await self._in_thread(lambda: self._chain.store.change_queue(add=transactions, remove=obsolete))
        for tx in transactions:
            self._answer(tx, None)

    def _answer(self, tx: Transaction, error: SteelyardError | None) -> None:
        waiter = self._waiters.pop(tx.hash, None)
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def _fail_all(self, error: ChainError) -> None:
        self._sealing = {}
        for tx_hash, waiter in self._waiters.items():
            tx = self.pool.get(tx_hash)
            if tx is not None:
                self.pool.remove(tx)
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()
        for done in self._forced:
            if not done.done():
                done.set_exception(error)
        self._forced.clear()

    async def _in_thread(self, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
