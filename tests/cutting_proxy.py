"""A TCP proxy that cuts, holds and tampers with what passes, for tests of links."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class CuttingProxy:
    """A TCP proxy that cuts each connection after so many bytes of either way, the next number for each connection.

    After the last number connections live on. `cut()` cuts what stands now; `is_open` False refuses new ones.
    """

    def __init__(self, target_port: int, cuts: Sequence[int] = ()) -> None:
        self.target_port = target_port
        self.cuts = list(cuts)
        self.connections = 0
        self.is_open = True
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen on a free port and return it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Reset every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Pass nothing on over the present connections, and close none of them: they look alive and are not."""
        self._frozen |= set(self._writers)

    async def aclose(self) -> None:
        """Stop."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if not self.is_open:
            writer.transport.abort()
            return
        self.connections += 1
        left = [self.cuts.pop(0)] if self.cuts else [1 << 60]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(far_writer)
        pair = (writer, far_writer)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink, left, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        left: list[int],
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(65536):
                if sink in self._frozen:
                    continue
                passed = data[: left[0]]
                left[0] -= len(passed)
                sink.write(passed)
                await sink.drain()
                if left[0] <= 0:
                    break
        except OSError:
            pass
        for writer in pair:
            writer.transport.abort()
            self._writers.discard(writer)
