"""The cache of weight files: each under its own SHA-256, written whole or not at all, shared by all processes of a
user.

1. A file appears under its hash only after its bytes were hashed and flushed; a killed process leaves a part, never a
   lie.
2. One process fetches a file, the others wait for it: a lock file per fetch, released by the system when its holder
   dies.
3. A file that was proven is not hashed again while its size, time and inode stay the same.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from steelyard.errors import ConfigError

_BLOCK = 1024 * 1024
_SPARE_BYTES = 64 * 1024 * 1024
_LOCK_POLL_S = 0.2


class WeightCache:
    """A folder of weight files."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when first written to."""
        self.folder = folder

    def path_of(self, sha256: str) -> Path:
        """Return where a file of this hash lies, or would lie."""
        return self.folder / f"{sha256}.gguf"

    def part_of(self, key: str) -> Path:
        """Return where an unfinished download of this key lies; it survives a crash, for resuming."""
        return self.folder / f"{key}.part"

    @asynccontextmanager
    async def locked(self, key: str) -> AsyncIterator[None]:
        """Hold the fetch of one key alone among all processes of this machine.

        Raises:
            ConfigError: the folder can't be made or written.
        """
        lock = self._open_lock(key)
        try:
            while not _try_lock(lock):  # noqa: ASYNC110 - another process holds it, nothing can tell us
                await asyncio.sleep(_LOCK_POLL_S)
            yield
        finally:
            lock.close()

    def _open_lock(self, key: str) -> BinaryIO:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / f"{key}.lock").open("ab")
        except OSError as error:
            raise ConfigError(f"the model cache {self.folder} can't be written: {error.strerror}") from error

    def check_space(self, size_bytes: int) -> None:
        """Refuse to begin what can't be finished.

        Raises:
            ConfigError: the disk has less than this and a little to spare; says how much.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size_bytes + _SPARE_BYTES:
            raise ConfigError(
                f"{self.folder} has {free // 2**20} MiB free, {size_bytes // 2**20} MiB are needed: "
                "free some space, or name another cache"
            )

    def is_proven(self, path: Path, sha256: str) -> bool:
        """Tell whether a file exists and hashes to this; hashes it only if it changed since that was last proven."""
        try:
            stamp = _stamp(path)
        except FileNotFoundError:
            return False
        note = self._note_of(path)
        if note.is_file() and note.read_text() == f"{sha256} {stamp}":
            return True
        if hash_file(path) != sha256:
            return False
        self._write_note(path, sha256)
        return True

    def keep(self, part: Path, sha256: str) -> Path:
        """Move a file whose hash the caller has just computed to its place, atomically, and return that place."""
        final = self.path_of(sha256)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(final)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._write_note(final, sha256)
        return final

    def remember(self, url_key: str, sha256: str) -> None:
        """Note which hash a URL without a known hash turned out to have."""
        self._replace_text(self.folder / f"{url_key}.url", sha256)

    def recall(self, url_key: str) -> str | None:
        """Return the hash that a URL was found to have before, if its file is still here."""
        note = self.folder / f"{url_key}.url"
        sha256 = note.read_text().strip() if note.is_file() else ""
        return sha256 if sha256 and self.path_of(sha256).is_file() else None

    def _note_of(self, path: Path) -> Path:
        return self.folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.proven"

    def _write_note(self, path: Path, sha256: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._replace_text(self._note_of(path), f"{sha256} {_stamp(path)}")

    def _replace_text(self, path: Path, text: str) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_bounded(source: BinaryIO, target: BinaryIO, limit: int) -> tuple[str, int]:
    """Copy at most `limit` bytes and return their SHA-256 and count; one byte more raises ValueError."""
    hasher, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK):
        size += len(block)
        if size > limit:
            raise ValueError(f"more than {limit} bytes")
        hasher.update(block)
        target.write(block)
    return hasher.hexdigest(), size


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
