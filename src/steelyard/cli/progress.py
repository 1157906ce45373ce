"""What a person sees while something is set up: one line that says the step, a bar while bytes are fetched.

On a terminal the line lives; elsewhere (a log, CI) each step is a line of its own.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Shows steps and progress while a ``with`` block runs."""

    def __init__(self, *, is_shown: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._is_shown = is_shown
        self._is_live = is_shown and self._console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._plain = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._started_s = time.monotonic()
        self._last = ""
        self._shown: Progress | None = None

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def report(self, step: str) -> None:
        """Say what is being done now; the same step twice is said once."""
        if step == self._last or not self._is_shown:
            return
        self._last = step
        if not self._is_live:
            self._console.print(f"[{time.monotonic() - self._started_s:5.1f} s] {step}", markup=False)
            return
        self._clear()
        self._plain.add_task(step, total=None)
        self._plain.start()
        self._shown = self._plain

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how much of something is done; `total` 0 means unknown."""
        if not self._is_live or not total:
            self.report(what)
            return
        if what != self._last or self._shown is not self._progress:
            self._last = what
            self._clear()
            self._progress.add_task(what, total=total)
            self._progress.start()
            self._shown = self._progress
        self._progress.update(self._progress.task_ids[-1], completed=done)

    def end(self, sentence: str) -> None:
        """Close with a sentence and the time that all of it took."""
        self._clear()
        if self._is_shown:
            seconds = time.monotonic() - self._started_s
            self._console.print(f"[green]✓[/] {sentence} [dim]({seconds:.1f} s)[/]")

    def _clear(self) -> None:
        if self._shown is None:
            return
        self._shown.stop()
        for task in list(self._shown.task_ids):
            self._shown.remove_task(task)
        self._shown = None
