"""Blobs by content id, in a folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from steelyard.errors import NotProvable, TooLarge
from steelyard.protocol.cid import Cid, cid_of
from steelyard.storage.blobs import FolderBlobs


def test_blob_put_is_read_back_and_listed_once(tmp_path: Path) -> None:
    """What was put under a content id comes back as it was; putting it twice keeps one file."""

    async def main() -> None:
        blobs = FolderBlobs(tmp_path / "blobs")
        contents = [b"", b"one", bytes(range(256)) * 300]
        cids = [await blobs.put(content) for content in (*contents, b"one")]
        assert cids == [cid_of(content) for content in (*contents, b"one")]
        assert [await blobs.get(cid) for cid in cids[:3]] == contents
        assert [await blobs.has(cid) for cid in cids] == [True] * 4
        assert sorted([cid async for cid in blobs.iterate()]) == sorted(set(cids))

    asyncio.run(main())


def test_blob_that_is_missing_is_not_provable(tmp_path: Path) -> None:
    """A store without the blob, or without its folder, says which one is missing."""

    async def main() -> None:
        blobs = FolderBlobs(tmp_path / "none")
        cid = Cid(bytes(32))
        assert not await blobs.has(cid)
        assert [cid async for cid in blobs.iterate()] == []
        with pytest.raises(NotProvable, match=str(cid)) as missing:
            await blobs.get(cid)
        assert missing.value.code == "blob_missing"

    asyncio.run(main())


@pytest.mark.parametrize("damaged", [b"", b"hellO", b"hello and more"])
def test_blob_with_damaged_bytes_is_an_error_and_can_be_put_again(tmp_path: Path, damaged: bytes) -> None:
    """Bytes that no longer hash to their name are never returned; the next put mends them."""

    async def main() -> None:
        blobs = FolderBlobs(tmp_path)
        cid = await blobs.put(b"hello")
        blobs.path(cid).write_bytes(damaged)
        with pytest.raises(NotProvable, match="damaged") as error:
            await blobs.get(cid)
        assert error.value.code == "blob_damaged"
        await blobs.put(b"hello")
        assert await blobs.get(cid) == b"hello"

    asyncio.run(main())


def test_blob_over_the_limit_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    """The limit is exact, and the refusal names it."""

    async def main() -> None:
        blobs = FolderBlobs(tmp_path, max_bytes=5)
        assert await blobs.get(await blobs.put(b"12345")) == b"12345"
        with pytest.raises(TooLarge, match="5"):
            await blobs.put(b"123456")
        assert len([cid async for cid in blobs.iterate()]) == 1

    asyncio.run(main())


def test_blob_whose_write_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error before the rename (a full disk) leaves neither the blob nor its temporary file."""

    def fail(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)

    async def main() -> None:
        blobs = FolderBlobs(tmp_path)
        with pytest.raises(OSError, match="No space"):
            await blobs.put(b"hello")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    asyncio.run(main())
