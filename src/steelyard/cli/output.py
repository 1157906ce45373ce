"""What commands print: tables and sentences for people, one JSON value for scripts, errors in one line.

1. Standard output carries the answer, standard error everything else.
2. JSON has amounts in nano as integers and bytes as 0x hex; people see YARD.
3. What comes from elsewhere (names, URLs, answers) is printed as it is, never read as markup.

Law: docs/cli.md, section 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON value, for scripts.")]


def print_json(value: Any) -> None:
    """Print one JSON value; bytes become 0x hex, everything else must be JSON already."""
    sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")


def print_line(text: str) -> None:
    """Print a sentence for people."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(text, markup=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table; columns whose name ends in ``>`` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    has_head = any(columns)
    style = box.SIMPLE_HEAD if has_head else None
    table = Table(box=style, title=title or None, title_justify="left", pad_edge=False, show_header=has_head)
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # Piped output has no width of its own: a table cut at 80 columns would lose addresses.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)
    console.print(table)


def print_next(*steps: str) -> None:
    """Print what to do next, one step a line, where a person sees it and a script doesn't."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for index, step in enumerate(steps):
        console.print(("Next: " if index == 0 else "      ") + step, style="dim", markup=False)


def print_error(message: str, *, code: str, is_json: bool) -> None:
    """Print an error as one clear line on standard error, or as ``{"error": …}`` for a script."""
    if is_json:
        sys.stderr.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble(("error: ", "bold red"), (message, "red"))
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)


def print_ready(**what: Any) -> None:
    """Tell whoever started this process that it is ready: one line of JSON on standard output."""
    sys.stdout.write(json.dumps({"ready": True, **what}, default=_plain) + "\n")
    sys.stdout.flush()


def example(*commands: str) -> str:
    """Return a help text's closing lines: one example each."""
    label = "Example" if len(commands) == 1 else "Examples"
    return f"{label}:\n\n" + "\n\n".join(f"  {command}" for command in commands)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)
