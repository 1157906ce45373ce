"""The small parts of the embedded chain: settings, revert words, polled filters, the node cache, the database."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from steelyard.chain.embedded.filters import FILTER_LIFETIME_S, MAX_FILTERS, Filters
from steelyard.chain.embedded.header import EMPTY_BLOOM, EMPTY_TRIE_ROOT, Header
from steelyard.chain.embedded.nodes import NewNodes, NodeCache, ReadNodes
from steelyard.chain.embedded.queries import load_head, load_header, load_queue
from steelyard.chain.embedded.receipts import SealedBlock
from steelyard.chain.embedded.reverts import reverted
from steelyard.chain.embedded.settings import ChainSettings
from steelyard.chain.embedded.store import Store
from steelyard.chain.embedded.transactions import decode_transaction
from steelyard.chain.transaction import Transaction as Unsigned
from steelyard.errors import ConfigError, RateLimited, Refusal
from steelyard.protocol.signing import SigningKey


def sealed(number: int, parent: bytes = bytes(32)) -> SealedBlock:
    """Return an empty block."""
    header = Header(
        number=number,
        parent_hash=parent,
        state_root=EMPTY_TRIE_ROOT,
        transactions_root=EMPTY_TRIE_ROOT,
        receipts_root=EMPTY_TRIE_ROOT,
        bloom=EMPTY_BLOOM,
        gas_limit=30_000_000,
        gas_used=0,
        timestamp_s=1_000 + number,
        base_fee_wei=7,
    ).seal()
    return SealedBlock(header, (), (), 600)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 65_536},
        {"port": -1},
        {"chain_id": 0},
        {"heartbeat_s": -0.1},
        {"max_body_bytes": 10},
        {"fund": (b"\x01",)},
    ],
)
def test_settings_out_of_range_name_themselves(wrong: dict[str, Any]) -> None:
    """Each wrong setting is a ConfigError that names it."""
    with pytest.raises(ConfigError) as error:
        ChainSettings(db=Path("chain.sqlite"), **wrong)
    assert error.value.param == next(iter(wrong))


def test_reverted_reads_standard_words_and_keeps_the_rest() -> None:
    """Error(string) and Panic(uint256) get words; custom errors, cut and lying data keep their bytes alone."""
    words = b"too little".ljust(32, b"\x00")
    error = bytes.fromhex(f"08c379a0{32:064x}{10:064x}") + words
    assert reverted(error).message == "execution reverted: too little"
    assert reverted(bytes.fromhex(f"4e487b71{0x11:064x}")).message == "execution reverted: panic code 0x11"
    for data in (b"", b"\x01", error[:40], bytes.fromhex(f"08c379a0{32:064x}{99:064x}") + words):
        assert reverted(data).message == "execution reverted"
        assert reverted(data).data == data


def test_filters_forget_what_nobody_polls() -> None:
    """A filter lives five minutes after its last poll; there is room for a fixed number."""
    now = [0.0]
    filters = Filters(clock=lambda: now[0])
    polled, idle = filters.install("blocks", 4), filters.install("logs", 4)
    assert filters.get(polled).next_block == 5
    now[0] = FILTER_LIFETIME_S - 1
    filters.get(polled)
    now[0] = FILTER_LIFETIME_S + 1
    filters.get(polled)
    for gone in (idle, "0x00"):
        with pytest.raises(Refusal, match="filter not found"):
            filters.get(gone)
    assert filters.uninstall(polled)
    for _ in range(MAX_FILTERS):
        filters.install("blocks", 4)
    with pytest.raises(RateLimited, match="too many filters"):
        filters.install("blocks", 4)
    now[0] += FILTER_LIFETIME_S + 1
    filters.install("blocks", 4)


def test_node_cache_keeps_what_is_used_and_drops_the_rest() -> None:
    """Two generations: a node read since the last turn stays, an idle one is read from the database again."""
    loads: list[bytes] = []

    def load(key: bytes) -> bytes | None:
        loads.append(key)
        return b"value" if key != b"none" else None

    nodes = ReadNodes(NodeCache(size=2), load)
    for key in (b"a", b"b", b"a", b"c", b"a", b"d", b"a"):
        assert nodes[key] == b"value"
    assert loads == [b"a", b"b", b"c", b"d"]
    assert nodes[b"b"] == b"value"
    assert loads[-1] == b"b"
    with pytest.raises(KeyError):
        nodes[b"none"]
    with pytest.raises(TypeError):
        nodes[b"a"] = b"other"


def test_store_failed_commit_leaves_nothing(tmp_path: Path) -> None:
    """A block that can't be committed whole leaves no node, no row and a usable database."""
    store = Store(tmp_path / "chain.sqlite")
    try:
        assert store.is_new
        store.create(5, sealed(0), NewNodes(None))
        nodes = NewNodes(store.nodes)
        nodes[b"key"] = b"value"
        with pytest.raises(sqlite3.IntegrityError):
            store.commit_block(sealed(0), nodes, ())  # block 0 is there already
        with pytest.raises(KeyError):
            store.nodes[b"key"]
        assert load_head(store.reader()).number == 0
        store.commit_block(sealed(1, sealed(0).header.hash), nodes, ())
        assert store.nodes[b"key"] == b"value"
        assert load_header(store.reader(), 1) == sealed(1, sealed(0).header.hash).header
    finally:
        store.close()


def test_store_reopened_keeps_its_queue_in_order(tmp_path: Path) -> None:
    """Queued transactions come back in the order they arrived, and leave with the block that uses them up."""
    unsigned = [
        Unsigned(chain_id=5, nonce=n, max_priority_fee_wei=0, max_fee_wei=9, gas=21_000, to=b"\x01" * 20)
        for n in (3, 1, 2)
    ]
    waiting = [decode_transaction(one.sign(SigningKey(b"\x01" * 32)).raw, 5) for one in unsigned]
    store = Store(tmp_path / "chain.sqlite", is_full_sync=True)
    store.create(5, sealed(0), NewNodes(None))
    store.change_queue(add=waiting)
    store.change_queue(add=waiting[:1])
    store.close()
    store = Store(tmp_path / "chain.sqlite")
    try:
        assert not store.is_new
        assert load_queue(store.reader(), 5) == waiting
        store.commit_block(sealed(1), NewNodes(store.nodes), [waiting[0].hash])
        assert load_queue(store.reader(), 5) == waiting[1:]
    finally:
        store.close()


def test_store_of_another_version_is_refused(tmp_path: Path) -> None:
    """A database with tables that aren't ours, or of another schema, is refused by name and left alone."""
    path = tmp_path / "chain.sqlite"
    store = Store(path)
    store.create(5, sealed(0), NewNodes(None))
    store.set_meta("schema_version", "999")
    store.close()
    with pytest.raises(ConfigError, match=r"is not a chain of this version \(schema 999, expected 1\)"):
        Store(path)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    with pytest.raises(ConfigError, match="is not a chain of this version"):
        Store(other)


def test_store_open_twice_is_refused_with_the_owner(tmp_path: Path) -> None:
    """Also within one process, and no longer once the first is closed."""
    first = Store(tmp_path / "chain.sqlite")
    with pytest.raises(ConfigError, match="already open in process"):
        Store(tmp_path / "chain.sqlite")
    first.close()
    Store(tmp_path / "chain.sqlite").close()
