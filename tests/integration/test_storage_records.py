"""Keys, calls, idempotency keys, events and cursors on real databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from sqlalchemy import select
from tests.databases import KINDS, open_test_database
from tests.ledger_rows import RUN_ID, call_row

from steelyard.errors import BadRequest, Conflict, Fault, NotFound
from steelyard.storage import budgets, calls, idempotency, keys
from steelyard.storage.cursors import load_cursor, move_cursor, save_cursor
from steelyard.storage.database import Database
from steelyard.storage.events import PeerEvent, list_events, record_event
from steelyard.storage.schema import api_keys
from steelyard.storage.writer import GroupWriter, open_writer

pytestmark = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def open_both(kind: str) -> AsyncIterator[tuple[Database, GroupWriter]]:
    """Give an empty database and a writer that must neither refuse unasked nor crash."""

    def fail(*told: object) -> None:
        raise AssertionError(told)

    async with open_test_database(kind) as database:
        writer = await open_writer(database, on_failure=fail, on_crash=fail)
        try:
            yield database, writer
        finally:
            await writer.aclose()


def test_key_is_found_by_its_secret_which_is_nowhere_stored(kind: str) -> None:
    """The secret comes back once; the database holds its hash and a prefix too short to guess from."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            key, secret = await keys.create_key(database, "ada", limit_nano=500, requests_per_minute=60, now_ms=7)
            assert secret.startswith("sk-steelyard-")
            assert len(secret) == len("sk-steelyard-") + 43
            assert await keys.find_key(database, secret) == key
            assert await keys.find_key(database, secret[:-1] + "_") is None
            assert (key.name, key.limit_nano, key.spent_nano, key.requests_per_minute) == ("ada", 500, 0, 60)
            assert secret.startswith(key.prefix)
            assert len(key.prefix) == len("sk-steelyard-") + 4
            async with database.read() as connection:
                row = (await connection.execute(select(api_keys))).one()
            assert secret not in repr(row)
            assert secret.removeprefix("sk-steelyard-") not in repr(row)

    asyncio.run(main())


def test_key_is_live_until_it_expires_or_is_revoked(kind: str) -> None:
    """Expiry is exact; revoking is for good, keeps its first time, and frees the name."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            key, secret = await keys.create_key(database, "ada", expires_ms=100, now_ms=7)
            assert key.is_live(99)
            assert not key.is_live(100)
            revoked = await keys.revoke_key(database, "ada", now_ms=50)
            assert not revoked.is_live(51)
            for named in ("ada", key.key_id):
                with pytest.raises(Conflict, match=f"'ada' .{key.key_id}. is revoked already"):
                    await keys.revoke_key(database, named, now_ms=60)
                with pytest.raises(Conflict, match="is revoked already"):
                    await keys.limit_key(database, named, limit_nano=60)
            assert await keys.load_key(database, key.key_id) == revoked
            assert revoked.revoked_ms == 50
            found = await keys.find_key(database, secret)
            assert found is not None
            assert not found.is_live(51)
            again, _ = await keys.create_key(database, "ada", now_ms=70)
            assert await keys.load_key(database, "ada") == again
            assert [listed.key_id for listed in await keys.list_keys(database)] == [key.key_id, again.key_id]

    asyncio.run(main())


def test_key_that_cannot_be_is_refused_with_its_field(kind: str) -> None:
    """A taken name, an empty one, a negative budget, a rate of nothing, an unknown key: each says what was wrong."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            await keys.create_key(database, "ada", now_ms=7)
            with pytest.raises(Conflict, match="ada"):
                await keys.create_key(database, "ada", now_ms=8)
            for name in ("", " ", " ada2", "x" * 101):
                with pytest.raises(BadRequest, match="name"):
                    await keys.create_key(database, name, now_ms=8)
            with pytest.raises(BadRequest) as limit:
                await keys.create_key(database, "bob", limit_nano=-1, now_ms=8)
            assert limit.value.param == "limit_nano"
            with pytest.raises(BadRequest) as rate:
                await keys.create_key(database, "bob", requests_per_minute=0, now_ms=8)
            assert rate.value.param == "requests_per_minute"
            with pytest.raises(NotFound, match="ada"):
                await keys.load_key(database, "adda")
            assert len(await keys.list_keys(database)) == 1

    asyncio.run(main())


def test_key_limits_change_one_by_one(kind: str) -> None:
    """What is not named stays; None lifts a limit; a bad value changes nothing."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            await keys.create_key(database, "ada", limit_nano=5, requests_per_minute=6, expires_ms=7, now_ms=1)
            key = await keys.limit_key(database, "ada", limit_nano=50)
            assert (key.limit_nano, key.requests_per_minute, key.expires_ms) == (50, 6, 7)
            key = await keys.limit_key(database, "ada", requests_per_minute=None, expires_ms=9)
            assert (key.limit_nano, key.requests_per_minute, key.expires_ms) == (50, None, 9)
            with pytest.raises(BadRequest):
                await keys.limit_key(database, "ada", requests_per_minute=10, limit_nano=2**63)
            assert await keys.load_key(database, "ada") == key
            key = await keys.limit_key(database, "ada", limit_nano=None)
            assert key.limit_nano is None
            assert (await budgets.load_budget(database, key.budget_id)).unleased_nano is None

    asyncio.run(main())


def test_calls_are_listed_by_key_and_time_and_added_up_by_run(kind: str) -> None:
    """The newest come first; a crashed slice is reconciled to the sum of its own run and key."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            for number in range(6):
                key_id = "key_1" if number % 2 else "key_2"
                writer.submit(calls.insert_call(call_row(number, cost_nano=10**number, key_id=key_id)))
            other = msgspec.structs.replace(call_row(9, cost_nano=5), run_id=b"another run 1234")
            await writer.submit_flushed(calls.insert_call(other))
            listed = await calls.list_calls(database, limit=3)
            assert [call.created_ms for call in listed] == [call_row(n).created_ms for n in (9, 5, 4)]
            listed = await calls.list_calls(database, key_id="key_2", before_ms=call_row(4).created_ms)
            assert [call.cost_nano for call in listed] == [100, 1]
            assert await calls.spent_in_run(database, RUN_ID) == 111_111
            assert await calls.spent_in_run(database, RUN_ID, key_id="key_1") == 101_010
            assert await calls.spent_in_run(database, RUN_ID, since_ms=call_row(4).created_ms) == 110_000
            assert await calls.spent_in_run(database, b"no run") == 0
            asked = [(call_row(n).call_id, call_row(n).order_hash) for n in (1, 77)]
            assert list(await calls.known_orders(database, asked)) == [call_row(1).order_hash]
            assert await calls.known_orders(database, []) == {}
            assert await calls.find_call(database, b"\x00" * 16) == []

    asyncio.run(main())


def test_receipt_that_comes_late_fills_its_row_once(kind: str) -> None:
    """A row without a receipt takes one; a second receipt, or one for an unknown order, is a failed write."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            whole = call_row(1)
            lost = msgspec.structs.replace(whole, status="lost", receipt_hash=None, receipt_bytes=None, cost_nano=0)
            await writer.submit_flushed(calls.insert_call(lost))
            whole = msgspec.structs.replace(whole, after_seq=5)
            await writer.submit_flushed(calls.fill_call(whole))
            assert await calls.find_call(database, whole.call_id) == [whole]
            for row in (whole, call_row(2)):
                with pytest.raises(Fault):
                    await writer.submit_flushed(calls.fill_call(row))

    asyncio.run(main())


async def begin(database: Database, body: bytes = b"body", *, process: str = "g", now_ms: int = 0) -> bytes | None:
    """Begin the same request of one key."""
    return await idempotency.begin_request(
        database, "key_1", "retry-1", body, process=process, now_ms=now_ms, expires_ms=now_ms + 100
    )


def test_same_request_twice_is_done_once_and_answered_twice(kind: str) -> None:
    """Of many that come at once one may go on; later ones get its answer, until it expires."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            outcomes = await asyncio.gather(*(begin(database) for _ in range(5)), return_exceptions=True)
            assert outcomes.count(None) == 1
            refused = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert [refusal.code for refusal in refused] == ["idempotency_running"] * 4
            await idempotency.finish_request(database, "key_1", "retry-1", b"answer")
            assert await begin(database, now_ms=99) == b"answer"
            with pytest.raises(Conflict) as mismatch:
                await begin(database, b"another body", now_ms=99)
            assert mismatch.value.code == "idempotency_mismatch"
            assert await begin(database, b"another body", now_ms=100) is None

    asyncio.run(main())


def test_request_that_did_not_end_can_be_tried_again(kind: str) -> None:
    """Dropped by its own process, or forgotten when a process of that name starts again; an answer is never dropped."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            assert await begin(database) is None
            await idempotency.drop_request(database, "key_1", "retry-1")
            assert await begin(database, process="g") is None
            assert await idempotency.drop_crashed(database, "h") == 0
            assert await idempotency.drop_crashed(database, "g") == 1
            assert await begin(database) is None
            await idempotency.finish_request(database, "key_1", "retry-1", b"answer")
            await idempotency.drop_request(database, "key_1", "retry-1")
            assert await idempotency.drop_crashed(database, "g") == 0
            assert await idempotency.drop_expired(database, now_ms=99) == 0
            assert await begin(database) == b"answer"
            assert await idempotency.drop_expired(database, now_ms=100) == 1

    asyncio.run(main())


def test_events_are_listed_newest_first_and_cut_when_overlong(kind: str) -> None:
    """Faults of one peer or all; a peer can't fill the disk with one message."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            for number in range(4):
                writer.submit(record_event(PeerEvent(number, f"0x{number % 2}", "bad_total", "x" * 5_000)))
            await writer.flush()
            assert [event.at_ms for event in await list_events(database, limit=3)] == [3, 2, 1]
            assert [event.at_ms for event in await list_events(database, peer="0x1")] == [3, 1]
            assert {len(event.detail) for event in await list_events(database)} == {2_000}

    asyncio.run(main())


def test_cursor_moves_with_its_transaction_or_not_at_all(kind: str) -> None:
    """A cursor that moved in a transaction that failed stays where it was."""

    async def move_and_fail(database: Database) -> None:
        async with database.begin() as connection:
            await move_cursor(connection, "escrow", "9")
            raise ZeroDivisionError

    async def main() -> None:
        async with open_test_database(kind) as database:
            assert await load_cursor(database, "escrow") is None
            await save_cursor(database, "escrow", "1")
            await save_cursor(database, "escrow", "2")
            with pytest.raises(ZeroDivisionError):
                await move_and_fail(database)
            assert await load_cursor(database, "escrow") == "2"
            assert await load_cursor(database, "other") is None

    asyncio.run(main())
