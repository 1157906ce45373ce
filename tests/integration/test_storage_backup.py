"""Backup and restore between databases of both kinds."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, text
from tests.databases import KINDS, empty_database_url, open_test_database
from tests.ledger_rows import call_row, digest, fresh, lane_of, next_batch, receipt_row, voucher_for

from steelyard.errors import ConfigError
from steelyard.storage import (
    backup,
    batch_feed,
    budgets,
    calls,
    idempotency,
    keys,
    lanes,
    lies,
    migrate,
    node_evidence,
    node_ledger,
    seen_batches,
    verdicts,
)
from steelyard.storage.backup import restore_backup, verify_backup, write_backup
from steelyard.storage.cursors import save_cursor
from steelyard.storage.database import Database, open_database
from steelyard.storage.events import PeerEvent, record_event
from steelyard.storage.migrations import MIGRATIONS, Migration
from steelyard.storage.operations import Operation
from steelyard.storage.processes import note_process
from steelyard.storage.schema import METADATA, migrations_applied
from steelyard.storage.turns import lease_turns
from steelyard.storage.waiting import WaitingRow
from steelyard.storage.writer import open_writer


async def fill(database: Database, call_count: int = 10) -> None:
    """Put at least one row in every table."""

    def fail(*told: object) -> None:
        raise AssertionError(told)

    await keys.create_key(database, "ada", limit_nano=2**63 - 1, now_ms=1)
    await budgets.set_limit(database, "escrow", None, now_ms=1)
    run = budgets.Run("g", b"r" * 16)
    await budgets.lease(database, run, "escrow", want_nano=10, least_nano=5, now_ms=1)
    await idempotency.begin_request(database, "k", "i", b"h", process="g", now_ms=1, expires_ms=2)
    await save_cursor(database, "escrow", "17")
    await note_process(database, "gateway-2", gateway=b"g" * 20, link_url="ws://two", now_ms=1)
    await lease_turns(database, "key", per_minute=60, want=1, now_ms=1)
    verdict = verdicts.VerdictRow(
        1,
        digest("receipt", 0),
        3,
        b"p" * 20,
        b"s" * 32,
        b"g" * 20,
        1,
        "score",
        "rate",
        -7,
        64,
        bytes(32),
        b"s" * 65,
        b"m",
        1,
    )
    waits = WaitingRow(b"w" * 32, 3, b"call")
    await verdicts.save_read(database, b"g" * 20, b"feed", [verdict], [(b"p" * 20, b"s" * 32, b"state")], [waits])
    await verdicts.save_secret(database, 3, b"secret")
    await verdicts.save_vote(database, 1, 3, 1, b"salt")
    event = PeerEvent(1, "0x", "lie_found", "two receipts")
    await lies.keep_lie(database, lies.LieRow(b"l" * 32, 1, b"p" * 20, b"both halves"), event)
    await lies.keep_half(database, b"h" * 32, b"k" * 32, b"one half", now_ms=1)
    seen = seen_batches.SeenBatch(b"k" * 32, 1, b"batch", b"leaves", 1)
    await seen_batches.add_seen(database, seen, [seen_batches.SeenReceipt(b"o" * 32, 0, b"k" * 32, 1, b"receipt", 1)])
    writer = await open_writer(database, on_failure=fail, on_crash=fail)
    lane = lane_of(1)
    state, batch = next_batch(fresh(lane), 2, 14)
    writer.submit(lanes.open_lane(lane, "g", now_ms=1))
    writer.submit(node_ledger.open_lane(lane, now_ms=1))
    for number in range(call_count):
        writer.submit(calls.insert_call(call_row(number, lane)))
    await writer.flush()
    writer.submit(lanes.record_batch(state, batch, [digest("receipt", n) for n in (0, 1)], now_ms=1))
    writer.submit(node_ledger.record_batch(state, batch, [receipt_row(0), receipt_row(1)], now_ms=1))
    noted = batch_feed.note_calls(lane.key, 1, [b"c" * 16, b"d" * 16])
    writer.submit(Operation((noted, node_evidence.keep_evidence(b"r" * 32, b"g" * 20, b"evidence", until_ms=9))))
    await writer.flush()
    writer.submit(lanes.record_voucher(voucher_for(state), now_ms=1))
    writer.submit(node_ledger.record_voucher(voucher_for(state), now_ms=1))
    writer.submit(
        node_ledger.record_redemption(node_ledger.Redemption(digest("tx"), 0, 5, lane.key, 14, 14, 2, state.head))
    )
    writer.submit(record_event(PeerEvent(1, "0x", "bad_total", "Ünïcode ⚖")))
    await writer.aclose()


async def contents(database: Database) -> dict[str, set[Any]]:
    """Return all rows by table, without the record of migrations."""
    async with database.read() as connection:
        return {
            name: {tuple(row) for row in await connection.execute(select(source))}
            for name, source in METADATA.tables.items()
            if source is not migrations_applied
        }


async def restored(url: str, path: Path) -> dict[str, set[Any]]:
    """Restore into a database and return what is in it."""
    await restore_backup(url, path)
    database = await open_database(url)
    try:
        return await contents(database)
    finally:
        await database.aclose()


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_backup_is_restored_whole_into_either_database(kind: str, target: str, tmp_path: Path) -> None:
    """Every row of every table comes back, from one kind of database to the other too, in several chunks."""

    async def main() -> None:
        async with open_test_database(kind) as database, empty_database_url(target) as url:
            await fill(database, call_count=4_500)
            before = await contents(database)
            assert all(before.values())
            manifest = await write_backup(database, tmp_path / "backup", now_ms=9)
            assert manifest.rows == sum(len(rows) for rows in before.values())
            assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
            assert [path.name for path in tmp_path.iterdir()] == ["backup"]
            assert await restored(url, tmp_path / "backup") == before

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_backup_is_one_snapshot_of_a_database_in_use(kind: str, tmp_path: Path) -> None:
    """Calls that are written meanwhile are in it or not; a batch and its lane's advance are never torn apart."""

    async def main() -> None:
        async with open_test_database(kind) as database, empty_database_url("sqlite") as url:
            lane = lane_of(1)

            def fail(*told: object) -> None:
                raise AssertionError(told)

            writer = await open_writer(database, on_failure=fail, on_crash=fail)
            await writer.submit_flushed(lanes.open_lane(lane, "g", now_ms=1))
            is_done = False

            async def write_on() -> None:
                state = fresh(lane)
                while not is_done:
                    state, batch = next_batch(state, 1, 7)
                    await writer.submit_flushed(lanes.record_batch(state, batch, [state.head], now_ms=1))

            task = asyncio.create_task(write_on())
            await asyncio.sleep(0.1)
            await write_backup(database, tmp_path / "backup", now_ms=9)
            is_done = True
            await task
            await writer.aclose()
            rows = await restored(url, tmp_path / "backup")
            ((lane_row,)) = rows["lanes"]
            assert lane_row[METADATA.tables["lanes"].columns.keys().index("seq")] == len(rows["batches"]) > 0

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_restore_refuses_a_database_that_holds_anything(kind: str, tmp_path: Path) -> None:
    """A row of ours, or a table of somebody else's, stops it; both stay."""

    async def main() -> None:
        async with open_test_database(kind) as source:
            await fill(source)
            await write_backup(source, tmp_path / "backup", now_ms=9)
        for damage in ("INSERT INTO cursors VALUES ('mine', '1')", "CREATE TABLE theirs (id INTEGER)"):
            async with empty_database_url(kind) as url:
                database = await open_database(url)
                async with database.begin() as connection:
                    await connection.execute(text(damage))
                with pytest.raises(ConfigError, match="not empty") as refusal:
                    await restore_backup(url, tmp_path / "backup")
                assert refusal.value.code == "database_not_empty"
                rows = await contents(database)
                assert rows["calls"] == set()
                assert len(rows["cursors"]) == damage.startswith("INSERT")
                await database.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_restore_that_fails_half_way_leaves_the_database_as_it_was(kind: str, tmp_path: Path) -> None:
    """Rows that the schema refuses undo the whole restore, tables included."""

    async def main() -> None:
        async with open_test_database("sqlite") as source, empty_database_url(kind) as url:
            await fill(source)
            await write_backup(source, tmp_path / "good", now_ms=9)
            rewrite(tmp_path / "good", tmp_path / "bad", double_rows_of="cursors")
            with pytest.raises(ConfigError) as refusal:
                await restore_backup(url, tmp_path / "bad")
            assert refusal.value.code == "database_unreachable"
            assert (await restored(url, tmp_path / "good"))["cursors"] == {("escrow", "17")}

    asyncio.run(main())


def rewrite(source: Path, target: Path, *, double_rows_of: str) -> None:
    """Write a backup anew in which a table has each row twice, with all hashes right."""
    members = dict(backup._members(source))
    manifest = msgspec.json.decode(members.pop("manifest.json"))
    for dump in manifest["tables"]:
        for chunk in dump["chunks"]:
            if dump["name"] == double_rows_of:
                rows = msgspec.msgpack.decode(members[chunk["member"]]) * 2
                members[chunk["member"]] = msgspec.msgpack.encode(rows)
                chunk["rows"] = len(rows)
                chunk["sha256"] = backup.hashlib.sha256(members[chunk["member"]]).hexdigest()
    with tarfile.open(target, "w:gz") as tar:
        for name, data in (*members.items(), ("manifest.json", msgspec.json.encode(manifest))):
            backup._add(tar, name, data)


@pytest.fixture
def good_backup(tmp_path: Path) -> Path:
    """Return a backup of a small database."""

    async def main() -> None:
        async with open_test_database("sqlite") as database:
            await fill(database)
            await write_backup(database, tmp_path / "backup", now_ms=9)

    asyncio.run(main())
    return tmp_path / "backup"


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "chunk changed", "chunk gone", "chunk added", "no tar", "no file"]
)
def test_backup_with_any_damage_is_refused_before_anything_is_written(
    good_backup: Path, tmp_path: Path, damage: str
) -> None:
    """A cut file, a changed bit, a chunk too few or too many: refused, and the target file is not even made."""
    bad = tmp_path / "bad"
    data = good_backup.read_bytes()
    members = dict(backup._members(good_backup))
    name = next(name for name in members if name.startswith("calls/"))
    if damage == "cut":
        bad.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        bad.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage == "no tar":
        bad.write_bytes(b"not a backup")
    elif damage.startswith("chunk"):
        if damage == "chunk changed":
            members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])
        elif damage == "chunk gone":
            del members[name]
        else:
            members["calls/000099.msgpack"] = members[name]
        with tarfile.open(bad, "w:gz") as tar:
            for member, content in members.items():
                backup._add(tar, member, content)
    target = tmp_path / "target.db"
    with pytest.raises(ConfigError) as refusal:
        asyncio.run(restore_backup(f"sqlite:///{target}", bad))
    assert refusal.value.code == "backup_damaged"
    assert not target.exists()


def test_backup_never_replaces_a_file(good_backup: Path) -> None:
    """An older backup stays as it is."""
    before = good_backup.read_bytes()

    async def main() -> None:
        async with open_test_database("sqlite") as database:
            with pytest.raises(ConfigError, match="exists"):
                await write_backup(database, good_backup, now_ms=10)
            with pytest.raises(ConfigError, match="can't write"):
                await write_backup(database, good_backup / "below a file", now_ms=10)

    asyncio.run(main())
    assert good_backup.read_bytes() == before


def test_backup_of_a_newer_schema_is_refused_and_of_an_older_one_migrated(
    good_backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup is restored under its own schema first, then brought up to this code's."""
    newer = (*MIGRATIONS, Migration(99, "later", ("ALTER TABLE events ADD COLUMN more TEXT",)))
    url = f"sqlite:///{tmp_path}/target.db"
    monkeypatch.setattr(backup, "MIGRATIONS", newer)
    monkeypatch.setattr(migrate.migrate, "__defaults__", (newer,))

    async def main() -> None:
        await restore_backup(url, good_backup)
        database = await open_database(url)
        async with database.read() as connection:
            (event, _) = await connection.execute(text("SELECT detail, more FROM events ORDER BY detail DESC"))
            assert tuple(event) == ("Ünïcode ⚖", None)
        await write_backup(database, tmp_path / "newer", now_ms=10)
        await database.aclose()
        monkeypatch.undo()
        with pytest.raises(ConfigError) as refusal:
            await restore_backup(f"sqlite:///{tmp_path}/other.db", tmp_path / "newer")
        assert refusal.value.code == "backup_schema"

    asyncio.run(main())
    assert verify_backup(good_backup).rows == verify_backup(tmp_path / "newer").rows
