"""The chain's file: blocks, state, logs and the queue in one SQLite database.

1. A block is one transaction: header, bodies, receipts, logs, state nodes, and the queue's rows that it used up.
2. One writer, on one thread at a time; readers have a connection per thread and never wait for it (WAL).
3. `synchronous=NORMAL` survives a killed process; FULL survives power loss as well.

Law: docs/spec/embedded-chain.md, section 3.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from steelyard.chain.embedded.lock import ChainLock
from steelyard.chain.embedded.nodes import NewNodes, NodeCache, ReadNodes
from steelyard.chain.embedded.receipts import SealedBlock
from steelyard.chain.embedded.transactions import Transaction
from steelyard.errors import ConfigError

SCHEMA_VERSION = "1"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (
  number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, timestamp_s INTEGER NOT NULL, header BLOB NOT NULL,
  size_bytes INTEGER NOT NULL
);
CREATE TABLE transactions (
  block INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL, sender BLOB NOT NULL,
  status INTEGER NOT NULL, gas_used INTEGER NOT NULL, cumulative_gas_used INTEGER NOT NULL, first_log INTEGER NOT NULL,
  PRIMARY KEY (block, position)
) WITHOUT ROWID;
CREATE TABLE logs (
  block INTEGER NOT NULL, position INTEGER NOT NULL, tx_position INTEGER NOT NULL, address BLOB NOT NULL,
  topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL,
  PRIMARY KEY (block, position)
) WITHOUT ROWID;
CREATE INDEX logs_by_address ON logs (address, block);
CREATE INDEX logs_by_topic ON logs (topic0, block);
CREATE TABLE queue (
  arrival INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL, sender BLOB NOT NULL
);
"""


class Store:
    """The open database of one chain; `close` it."""

    def __init__(self, path: Path, *, is_full_sync: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = ChainLock(path)
        self._connections: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._guard = threading.Lock()
        self.cache = NodeCache()
        self.nodes = ReadNodes(self.cache, self._load_node)
        try:
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if is_full_sync else 'NORMAL'}")
            self._check_schema()
        except sqlite3.DatabaseError as error:
            self.close()
            raise ConfigError(f"{path} can't be opened as a chain: {error}", param="db") from error
        except ConfigError:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        with self._guard:
            self._connections.append(connection)
        return connection

    def _check_schema(self) -> None:
        tables = {row[0] for row in self._writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return  # a new file: `create` makes the tables together with the genesis block
        version = self.meta("schema_version") if "meta" in tables else None
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path} is not a chain of this version (schema {version}, expected {SCHEMA_VERSION}): "
                "name another file with --db",
                param="db",
            )

    @property
    def is_new(self) -> bool:
        """True until `create` has committed a genesis block."""
        return self._writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None

    def reader(self) -> sqlite3.Connection:
        """Return this thread's own connection, for reading."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
        return connection

    def _load_node(self, key: bytes) -> bytes | None:
        row = self.reader().execute("SELECT value FROM nodes WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def create(self, chain_id: int, genesis: SealedBlock, nodes: NewNodes) -> None:
        """Make the tables and commit the genesis block, all or nothing."""
        with self._transaction() as writer:
            for statement in _SCHEMA.split(";"):
                writer.execute(statement)
            rows = [("schema_version", SCHEMA_VERSION), ("chain_id", str(chain_id)), ("time_offset_s", "0")]
            writer.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            self._write_block(writer, genesis, nodes)
        self._remember(nodes)

    def commit_block(self, block: SealedBlock, nodes: NewNodes, used_up: Iterable[bytes]) -> None:
        """Commit a block; `used_up` are hashes whose rows leave the queue with it."""
        with self._transaction() as writer:
            self._write_block(writer, block, nodes)
            writer.executemany("DELETE FROM queue WHERE hash = ?", [(tx_hash,) for tx_hash in used_up])
        self._remember(nodes)

    def change_queue(self, *, add: Iterable[Transaction] = (), remove: Iterable[bytes] = ()) -> None:
        """Commit what waits for an earlier nonce or a lower base fee, and which hashes no longer do."""
        with self._transaction() as writer:
            rows = [(tx.hash, tx.raw, tx.sender) for tx in add]
            writer.executemany("INSERT OR IGNORE INTO queue (hash, raw, sender) VALUES (?, ?, ?)", rows)
            writer.executemany("DELETE FROM queue WHERE hash = ?", [(tx_hash,) for tx_hash in remove])

    def meta(self, key: str) -> str | None:
        """Return a fact about this chain, None if it isn't set."""
        row = self._writer.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Commit a fact about this chain."""
        self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _transaction(self) -> _WriteTransaction:
        return _WriteTransaction(self._writer)

    def _write_block(self, writer: sqlite3.Connection, block: SealedBlock, nodes: NewNodes) -> None:
        header = block.header
        writer.executemany("INSERT OR IGNORE INTO nodes VALUES (?, ?)", nodes.written.items())
        writer.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?)",
            (header.number, header.hash, header.timestamp_s, header.encode(), block.size_bytes),
        )
        writer.executemany(
            "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    mined.block_number,
                    mined.position,
                    mined.transaction.hash,
                    mined.transaction.raw,
                    mined.transaction.sender,
                    mined.status,
                    mined.gas_used,
                    mined.cumulative_gas_used,
                    mined.first_log,
                )
                for mined in block.transactions
            ],
        )
        writer.executemany(
            "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    mined.block_number,
                    mined.index,
                    mined.transaction_position,
                    mined.log.address,
                    *(mined.log.topics + (None,) * 4)[:4],
                    mined.log.data,
                )
                for mined in block.logs
            ],
        )

    def _remember(self, nodes: NewNodes) -> None:
        for key, value in nodes.written.items():
            self.cache.put(key, value)

    def close(self) -> None:
        """Close every connection and let go of the lock."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._lock.close()


class _WriteTransaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any error, COMMIT's own included."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
