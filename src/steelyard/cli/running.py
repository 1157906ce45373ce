"""The network that ``steelyard up`` keeps running in a home: what it is, and whether it still runs.

1. What runs stands in ``network.json``; its supervisor holds a lock on ``network.lock`` for as long as it lives. A file
   that outlived its supervisor is never believed, whoever has its process id by now.
2. A process that a supervisor started ends with it, however that ended.

Law: docs/cli.md, "steelyard up".
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steelyard.errors import ConfigError

STATE_FILE = "network.json"
LOCK_FILE = "network.lock"
SUPERVISOR_VARIABLE = "STEELYARD_SUPERVISOR"
"""Names the process that a started one ends with."""
ORPHAN_CHECK_S = 1.0

_LOCK_PATIENCE_S = 1.0  # a reader holds the lock for microseconds


def load_state(home: Path) -> dict[str, Any] | None:
    """Return what `network.json` says of a network that runs, or None."""
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and find_supervisor(home) is not None else None


def find_supervisor(home: Path) -> int | None:
    """Return the id of the process that starts or runs a home's network, or None."""
    try:
        with (home / LOCK_FILE).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read())
    except (OSError, ValueError):
        pass
    return None


@contextmanager
def claim_home(home: Path) -> Iterator[None]:
    """Hold a home's lock while the block runs; raises ConfigError if a network starts or runs there already."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    with (home / LOCK_FILE).open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ConfigError(
                        f"a network starts or runs in {home} already: wait for it, or stop it with steelyard down"
                    ) from None
                time.sleep(0.02)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


async def await_orphaned(supervisor: str) -> None:
    """Return once the process with the id `supervisor` isn't this one's parent any more."""
    while str(os.getppid()) == supervisor:  # noqa: ASYNC110  # the system tells nobody of it
        await asyncio.sleep(ORPHAN_CHECK_S)
