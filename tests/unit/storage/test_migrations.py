"""Migrations are frozen once they are released, and loading storage loads no database."""

from __future__ import annotations

import subprocess
import sys

from steelyard.storage.migrations import MIGRATIONS

# A migration that a release carries is never edited: what it forgot goes into the next one.
FROZEN = {
    1: "6661062dbfcfd76de46685de291901f747f7a3e103359e05aa95a67cf529af93",
    2: "578f2fd29bd0eb2ab2492ebdbfa8a8c5b66d55431546624b28c78b42732cff4f",
    3: "a58e9c335107479a9d1e1b1710878d5d2827b41789594fabafa80268d8f5d08c",
    4: "f9dfdeb90bec21e7bbdc7bc679f39c73e57ee6430f6b201c0c13093f50a0ff3f",
    5: "2ef37af46235aca24363c649953bad7f324f5a63114e98ebc66f80711c094f53",
    6: "890abdf1f424573c17a5b4223d24f1ba06330ddd95a78cea84adfe48a224479c",
    7: "c7d1dfced34282e4d5e6b5806b4fcf110174f98a7820561e274d760208db6890",
    8: "2e264bb6894c5dc92cd54a5a8fbaaf6d6079f6bfc199eb535c3da660a232f992",
    9: "8e8c508ce70e477c3ac769ab48e46143ce3eefbf71c82a0025ebbf0e9af87870",
}


def test_migration_text_is_the_one_that_was_released() -> None:
    """A changed text would stop every existing database at its next start."""
    assert {migration.number: migration.checksum for migration in MIGRATIONS} == FROZEN


def test_migrations_are_numbered_without_a_gap() -> None:
    """Their order is that of their numbers, from 1."""
    assert [migration.number for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_meters_and_blobs_load_no_database() -> None:
    """What the hot path and the command line need first does not import SQLAlchemy."""
    code = "import sys, steelyard.storage, steelyard.storage.meter, steelyard.storage.blobs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sqlalchemy", "aiosqlite", "asyncpg"} & set(loaded)
