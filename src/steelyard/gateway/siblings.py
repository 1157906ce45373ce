"""The processes of one gateway account on one database: each says that it lives, and knows where the links of all are.

1. A node dials every process: each has lanes of its own, and a client may reach any of them behind one port.
2. A process that was killed stays listed for a while: nodes go on dialling, and find it as soon as it is back.

Law: docs/spec/gateway.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.storage.database import Database
from steelyard.storage.processes import forget_process, list_links, note_process

NOTE_S = 2.0
LISTED_S = 60.0


class Siblings:
    """What this process tells of itself, and knows of the others.

    Args:
        account: the gateway's. link_url: where nodes dial this process. clock_ms: Unix milliseconds.
    """

    def __init__(
        self, database: Database, process: str, account: bytes, link_url: str, clock_ms: Callable[[], int]
    ) -> None:
        self.links: tuple[str, ...] = (link_url,)
        self._database = database
        self._process = process
        self._account = account
        self._link_url = link_url
        self._clock_ms = clock_ms

    async def beat(self) -> None:
        """Say that this process lives, and look who else does."""
        now_ms = self._clock_ms()
        await note_process(self._database, self._process, gateway=self._account, link_url=self._link_url, now_ms=now_ms)
        since_ms = now_ms - int(LISTED_S * 1000)
        self.links = tuple(await list_links(self._database, gateway=self._account, since_ms=since_ms))

    async def leave(self) -> None:
        """Say that this process stops."""
        await forget_process(self._database, self._process)
