"""What is read back from a chain's file: headers, transactions, receipts, logs, the queue.

1. Every function takes a connection of its own thread and answers from committed blocks alone.
2. A stored transaction's sender was recovered when it arrived, and is not recovered again.

Law: docs/spec/embedded-chain.md, section 3.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.chain.embedded.header import Header, decode_header
from steelyard.chain.embedded.receipts import Log, MinedLog, MinedTransaction
from steelyard.chain.embedded.transactions import Transaction, decode_transaction

_TRANSACTION = "t.block, t.position, t.raw, t.sender, t.status, t.gas_used, t.cumulative_gas_used, t.first_log"
_LOG = (
    "l.block, b.hash, b.timestamp_s, t.hash, l.tx_position, l.position, l.address, "
    "l.topic0, l.topic1, l.topic2, l.topic3, l.data "
    "FROM logs l JOIN blocks b ON b.number = l.block JOIN transactions t ON t.block = l.block AND t.position = "
    "l.tx_position"
)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which logs are wanted: any of `addresses` (empty: all), and at each topic any of the listed (None: any)."""

    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...] | None, ...] = ()

    def matches(self, log: Log) -> bool:
        """Tell whether a log is wanted; a log with fewer topics than the filter names is not."""
        if self.addresses and log.address not in self.addresses:
            return False
        if len(log.topics) < len(self.topics):
            return False
        return all(
            wanted is None or topic in wanted for wanted, topic in zip(self.topics, log.topics, strict=False)
        )  # a log may have more topics than the filter names


def load_head(db: sqlite3.Connection) -> Header:
    """Return the newest header."""
    row = db.execute("SELECT header, hash FROM blocks ORDER BY number DESC LIMIT 1").fetchone()
    return decode_header(row[0], row[1])


def load_header(db: sqlite3.Connection, number: int) -> Header | None:
    """Return a block's header by number, None if there is none."""
    row = db.execute("SELECT header, hash FROM blocks WHERE number = ?", (number,)).fetchone()
    return None if row is None else decode_header(row[0], row[1])


def load_header_by_hash(db: sqlite3.Connection, block_hash: bytes) -> Header | None:
    """Return a block's header by hash, None if there is none."""
    row = db.execute("SELECT header, hash FROM blocks WHERE hash = ?", (block_hash,)).fetchone()
    return None if row is None else decode_header(row[0], row[1])


def load_block_hash(db: sqlite3.Connection, number: int) -> bytes | None:
    """Return a block's hash, None if there is no such block."""
    row = db.execute("SELECT hash FROM blocks WHERE number = ?", (number,)).fetchone()
    return None if row is None else row[0]


def load_size(db: sqlite3.Connection, number: int) -> int:
    """Return a block's size in bytes."""
    row = db.execute("SELECT size_bytes FROM blocks WHERE number = ?", (number,)).fetchone()
    return 0 if row is None else int(row[0])


def load_transaction_hashes(db: sqlite3.Connection, number: int) -> list[bytes]:
    """Return the hashes of a block's transactions, in order."""
    return [row[0] for row in db.execute("SELECT hash FROM transactions WHERE block = ? ORDER BY position", (number,))]


def load_transactions(db: sqlite3.Connection, chain_id: int, number: int) -> list[MinedTransaction]:
    """Return a block's transactions with what they gave, in order."""
    rows = db.execute(f"SELECT {_TRANSACTION} FROM transactions t WHERE t.block = ? ORDER BY t.position", (number,))  # noqa: S608  # constant columns
    return [_mined(row, chain_id) for row in rows]


def load_transaction(db: sqlite3.Connection, chain_id: int, tx_hash: bytes) -> MinedTransaction | None:
    """Return a mined transaction by hash, None if no block holds it."""
    row = db.execute(f"SELECT {_TRANSACTION} FROM transactions t WHERE t.hash = ?", (tx_hash,)).fetchone()  # noqa: S608  # constant columns
    return None if row is None else _mined(row, chain_id)


def load_transaction_at(db: sqlite3.Connection, chain_id: int, number: int, position: int) -> MinedTransaction | None:
    """Return a mined transaction by block and position, None if there is none."""
    row = db.execute(
        f"SELECT {_TRANSACTION} FROM transactions t WHERE t.block = ? AND t.position = ?",  # noqa: S608  # constant columns
        (number, position),
    ).fetchone()
    return None if row is None else _mined(row, chain_id)


def load_logs_of_block(db: sqlite3.Connection, number: int) -> list[MinedLog]:
    """Return a block's logs, in order."""
    return [
        _log(row) for row in db.execute(f"SELECT {_LOG} WHERE l.block = ? ORDER BY l.position", (number,))
    ]  # constant columns


def load_logs_of_transaction(db: sqlite3.Connection, number: int, position: int) -> list[MinedLog]:
    """Return one transaction's logs, in order."""
    rows = db.execute(
        f"SELECT {_LOG} WHERE l.block = ? AND l.tx_position = ? ORDER BY l.position",  # constant columns
        (number, position),
    )
    return [_log(row) for row in rows]


def find_logs(db: sqlite3.Connection, wanted: LogFilter, first: int, last: int, limit: int) -> list[MinedLog]:
    """Return at most `limit` logs of blocks `first` to `last`, both included, in the order they were emitted."""
    where = ["l.block BETWEEN ? AND ?"]
    values: list[object] = [first, last]
    if wanted.addresses:
        where.append(f"l.address IN ({_marks(wanted.addresses)})")
        values.extend(wanted.addresses)
    for i, topics in enumerate(wanted.topics):
        if topics is None:
            where.append(f"l.topic{i} IS NOT NULL")
        else:
            where.append(f"l.topic{i} IN ({_marks(topics)})")
            values.extend(topics)
    rows = db.execute(
        f"SELECT {_LOG} WHERE {' AND '.join(where)} ORDER BY l.block, l.position LIMIT ?",  # marks only
        (*values, limit),
    )
    return [_log(row) for row in rows]


def load_queue(db: sqlite3.Connection, chain_id: int) -> list[Transaction]:
    """Return the waiting transactions in the order they arrived."""
    rows = db.execute("SELECT raw, sender FROM queue ORDER BY arrival")
    return [decode_transaction(raw, chain_id, sender=sender) for raw, sender in rows]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _mined(row: tuple[int, int, bytes, bytes, int, int, int, int], chain_id: int) -> MinedTransaction:
    block, position, raw, sender, status, gas_used, cumulative, first_log = row
    return MinedTransaction(
        transaction=decode_transaction(raw, chain_id, sender=sender),
        block_number=block,
        position=position,
        status=status,
        gas_used=gas_used,
        cumulative_gas_used=cumulative,
        first_log=first_log,
    )


def _log(row: tuple[Any, ...]) -> MinedLog:
    block, block_hash, timestamp_s, tx_hash, tx_position, position, address, t0, t1, t2, t3, data = row
    return MinedLog(
        log=Log(address, tuple(topic for topic in (t0, t1, t2, t3) if topic is not None), data),
        block_number=block,
        block_hash=block_hash,
        block_timestamp_s=timestamp_s,
        transaction_hash=tx_hash,
        transaction_position=tx_position,
        index=position,
    )
