"""Blobs: bytes kept by the hash of their content.

1. A blob is immutable; putting it twice is putting it once.
2. What is read back is hashed again: damaged bytes are an error that names the file, never an answer.
3. A blob that `put` returned for survives a power cut; a half-written one is never seen.

Law: docs/spec/storage.md, section 9.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from steelyard.errors import BadRequest, NotProvable, TooLarge
from steelyard.protocol.cid import Cid, cid_of, parse_cid

MAX_BLOB_BYTES = 64 * 1024 * 1024


class BlobStore(Protocol):
    """Where blobs are kept; a folder by default, S3 or IPFS behind the same four verbs."""

    async def put(self, blob: bytes) -> Cid:
        """Keep a blob and return its content id; raises TooLarge."""
        ...

    async def get(self, cid: Cid) -> bytes:
        """Return a blob; raises NotProvable if it is missing (`blob_missing`) or damaged (`blob_damaged`)."""
        ...

    async def has(self, cid: Cid) -> bool:
        """Tell whether a blob is there, without reading it."""
        ...

    def iterate(self) -> AsyncIterator[Cid]:
        """Give the content ids of all blobs, in no order."""
        ...


class FolderBlobs:
    """Blobs as files `<root>/<two characters>/<cid>`; the characters are the CID's last, which are evenly spread.

    Args:
        root: made if it is missing. max_bytes: the largest blob taken or read.
    """

    def __init__(self, root: Path, *, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._root = root
        self._max_bytes = max_bytes

    async def put(self, blob: bytes) -> Cid:
        """Keep a blob; see `BlobStore`."""
        if len(blob) > self._max_bytes:
            raise TooLarge(f"a blob of {len(blob)} bytes is over the limit of {self._max_bytes}", code="blob_too_large")
        cid = cid_of(blob)
        await asyncio.to_thread(self._write, self.path(cid), blob)
        return cid

    async def get(self, cid: Cid) -> bytes:
        """Return a blob; see `BlobStore`."""
        return await asyncio.to_thread(self._read, cid)

    async def has(self, cid: Cid) -> bool:
        """Tell whether a blob is there; see `BlobStore`."""
        return await asyncio.to_thread(self.path(cid).is_file)

    async def iterate(self) -> AsyncIterator[Cid]:
        """Give all content ids; files of other names are passed over."""
        for shelf in await asyncio.to_thread(_list_folder, self._root):
            for path in await asyncio.to_thread(_list_folder, shelf):
                try:
                    yield parse_cid(path.name)
                except BadRequest:
                    continue

    def path(self, cid: Cid) -> Path:
        """Return the file in which a blob is, or would be."""
        name = str(cid)
        return self._root / name[-2:] / name

    def _write(self, path: Path, blob: bytes) -> None:
        if path.is_file() and path.read_bytes() == blob:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        for folder in (path.parent, self._root):
            _sync_folder(folder)

    def _read(self, cid: Cid) -> bytes:
        path = self.path(cid)
        try:
            with path.open("rb") as file:
                blob = file.read(self._max_bytes + 1)
        except FileNotFoundError as error:
            raise NotProvable(f"blob {cid} is missing", code="blob_missing") from error
        if cid_of(blob) != cid:
            message = f"blob {cid} is damaged: {path} hashes to {cid_of(blob)}; delete it and fetch it again"
            raise NotProvable(message, code="blob_damaged")
        return blob


def _list_folder(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
