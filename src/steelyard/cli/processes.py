"""Child processes of a network: started, awaited until ready, watched, stopped.

1. A child says that it is ready with one line of JSON on standard output; what it logs goes to a file.
2. A child that ends before that fails the start with the last line of its log.
3. Stopping asks first (SIGTERM), in reverse order of starting, and kills after a grace period. A child whose
   supervisor is gone ends by itself.
4. A child that is kept is started again whenever it ends; one that keeps ending waits longer each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from steelyard.cli.running import SUPERVISOR_VARIABLE
from steelyard.errors import ConfigError

READY_TIMEOUT_S = 60.0
GRACE_S = 15.0
MAX_READY_BYTES = 64 * 1024
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
_log = structlog.get_logger("steelyard.cli")


@dataclass(slots=True)
class Child:
    """One running process: its name, what its ready line said, and its log."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None


class Processes:
    """The children of one network, in the order in which they were started."""

    def __init__(self, logs: Path) -> None:
        self.children: dict[str, Child] = {}
        self._logs = logs
        self._drains: set[asyncio.Task[None]] = set()

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "steelyard"),
    ) -> Child:
        """Start ``python PROGRAM ARGUMENTS`` and wait for its ready line.

        Raises:
            ConfigError: it ended, or said nothing, before it was ready; shows the last line of its log.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        own = {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", SUPERVISOR_VARIABLE: str(os.getpid())}
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env=os.environ | own | (environment or {}),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops all in order
                limit=MAX_READY_BYTES,
            )
        child = Child(name, process, log)
        self.children[name] = child
        try:
            child.ready = await asyncio.wait_for(self._await_ready(child), READY_TIMEOUT_S)
        except TimeoutError:
            await self.stop(name)
            raise ConfigError(f"{name} was not ready after {READY_TIMEOUT_S:.0f} s; its log: {log}") from None
        drain = asyncio.create_task(self._drain(child))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)
        return child

    async def stop(self, name: str) -> None:
        """Stop one child: ask, wait, kill."""
        child = self.children.pop(name, None)
        if child is None or not child.is_running:
            return
        child.process.terminate()
        try:
            await asyncio.wait_for(child.process.wait(), GRACE_S)
        except TimeoutError:
            child.process.kill()
            await child.process.wait()

    async def kill(self, name: str) -> None:
        """Kill one child at once, as a crash would."""
        child = self.children.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        await child.process.wait()

    async def stop_all(self) -> None:
        """Stop every child, the last started first."""
        for name in reversed(list(self.children)):
            await self.stop(name)
        if self._drains:
            await asyncio.gather(*self._drains)

    async def wait_any_end(self, names: Collection[str]) -> Child:
        """Return the first of these children that ends by itself."""
        waits = {asyncio.create_task(self.children[name].process.wait()): self.children[name] for name in names}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[next(iter(done))]
        finally:
            for task in waits:
                task.cancel()

    async def keep(self, name: str, start: Callable[[], Awaitable[object]]) -> None:
        """Start a child again whenever it ends, until cancelled; one that keeps ending waits longer each time."""
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            begun_s = loop.time()
            if (child := self.children.get(name)) is not None:
                status = await child.process.wait()
                _log.error("process_ended", process=name, status=status, log=str(child.log))
            if loop.time() - begun_s > STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            try:
                await start()
            except ConfigError as error:
                _log.error("process_not_started", process=name, reason=error.message)
            else:
                _log.warning("process_started_again", process=name)

    async def _await_ready(self, child: Child) -> dict[str, Any]:
        output = child.process.stdout
        while output is not None and (line := await output.readline()):
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("ready") is True:
                    return said
        status = await child.process.wait()
        raise ConfigError(f"{child.name} ended with status {status}: {last_line(child.log)}")

    async def _drain(self, child: Child) -> None:
        with child.log.open("ab") as sink:
            while child.process.stdout is not None and (block := await child.process.stdout.read(65536)):
                sink.write(block)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, shortened."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1][:400] if lines else "its log is empty"
