"""One process, one chain: the lock beside the database.

1. The lock is the operating system's, so a killed process leaves nothing to clean up.
2. The file holds the owner's process id, for the message alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from steelyard.errors import ConfigError


class ChainLock:
    """Holds `<db>.lock` from construction until `close`; raises ConfigError when another process holds it."""

    def __init__(self, db: Path) -> None:
        try:
            import fcntl  # POSIX only
        except ImportError as error:
            raise ConfigError("the embedded chain needs a POSIX system; use --chain URL on this one") from error
        path = db.with_name(db.name + ".lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            whose = f"process {owner}" if owner else "another process"
            raise ConfigError(
                f"the chain in {db} is already open in {whose}: stop it, or name another file with --db", param="db"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def close(self) -> None:
        """Let the next process in."""
        os.close(self._descriptor)
