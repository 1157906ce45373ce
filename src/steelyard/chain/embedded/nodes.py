"""State nodes: a cache over those in the database, and those that a block has yet to commit.

1. Nodes are content-addressed and never overwritten, so what is cached can't be stale.
2. What a block writes is seen by that block alone until it is committed.

Port: `Nodes` in engine.py.
"""

from __future__ import annotations

from collections.abc import Callable

NODE_CACHE_SIZE = 40_000  # nodes in each of two generations: about 20 MB together


class NodeCache:
    """Recently used state nodes, in two generations, so that no thread ever walks a dictionary that another changes."""

    def __init__(self, size: int = NODE_CACHE_SIZE) -> None:
        self._size = size
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return a node, or None if it must be read."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Remember a node that is in the database."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = value


class ReadNodes:
    """The state as any thread may read it; writing is refused."""

    def __init__(self, cache: NodeCache, load: Callable[[bytes], bytes | None]) -> None:
        self._cache = cache
        self._load = load

    def __getitem__(self, key: bytes) -> bytes:
        value = self._cache.get(key)
        if value is None:
            value = self._load(key)
            if value is None:
                raise KeyError(key)
            self._cache.put(key, value)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        raise TypeError("a read-only view of the state")


class NewNodes:
    """The state as one block sees it: what is committed (None at genesis), under what the block has written so far."""

    def __init__(self, committed: ReadNodes | None) -> None:
        self._committed = committed
        self.written: dict[bytes, bytes] = {}

    def __getitem__(self, key: bytes) -> bytes:
        value = self.written.get(key)
        if value is not None:
            return value
        if self._committed is None:
            raise KeyError(key)
        return self._committed[key]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.written[key] = value
