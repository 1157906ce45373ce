"""The command line's frame: commands, global options, and what happens to every error.

1. Each command module registers its own; nothing heavy is imported until a command runs.
2. A SteelyardError is one red line; its status is 2 for this machine's own set-up, else 1. Anything else is our fault:
   it is logged whole in ``logs/faults.log`` of the home and shown as an id, with a traceback only under ``--debug``.
3. ``up``, ``down`` and ``demo`` live in their own modules, loaded when they are called.

Law: docs/cli.md.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer

from steelyard import __version__
from steelyard.cli import (
    appealing,
    auditing,
    backups,
    calibrating,
    call_lists,
    chatting,
    diagnosis,
    key_commands,
    market,
    model_files,
    money,
    redeeming,
    rewarding,
    serving,
    states,
    stories,
    wallets,
)
from steelyard.cli.invocation import Invocation, find_home
from steelyard.cli.output import example, print_error
from steelyard.errors import ConfigError, Fault, SteelyardError

MODULES = (
    stories,
    diagnosis,
    chatting,
    model_files,
    serving,
    calibrating,
    key_commands,
    wallets,
    money,
    redeeming,
    rewarding,
    market,
    call_lists,
    auditing,
    appealing,
    states,
    backups,
)


def build_app() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(
        name="steelyard",
        help="An open market for AI with an honest scale: sell work, buy it, check it, be paid.",
        epilog=example("steelyard demo", "steelyard up", 'steelyard chat "What is a steelyard?"'),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_begin)
    for module in MODULES:
        module.register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its status."""
    words = sys.argv[1:] if arguments is None else arguments
    is_debug = "--debug" in words or bool(os.environ.get("STEELYARD_DEBUG"))
    is_json = "--json" in words
    try:
        # Not standalone: what was typed wrong is told as every other error is, and the status comes back.
        sys.exit(build_app()(words, prog_name="steelyard", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        sys.exit(130)
    except typer.Abort:
        print_error("given up: nothing was done", code="aborted", is_json=is_json)
        sys.exit(1)
    except typer.TyperException as error:
        _report_usage(error, is_json=is_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SteelyardError as error:
        if is_debug:
            traceback.print_exc()
        if isinstance(error, Fault):
            _report_fault(error, words, is_json=is_json)
        print_error(error.message, code=error.code, is_json=is_json)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:  # the outermost supervisor: whatever comes here is logged whole, then ends the process
        if is_debug:
            traceback.print_exc()
        _report_fault(error, words, is_json=is_json)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"steelyard {__version__}")
        raise typer.Exit


def _begin(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Folder of settings, keys and data. Default: STEELYARD_HOME, else ~/.steelyard."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    context.obj = Invocation(find_home(home), is_debug=debug)


def _report_usage(error: typer.TyperException, *, is_json: bool) -> None:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not is_json:
        sys.stderr.write(error.format_message() + "\n")
        sys.exit(error.exit_code)
    said = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":
        said = "a command is missing"
    words = getattr(context, "command_path", "") or "steelyard"
    print_error(f"{said[:1].lower()}{said[1:]}; see {words} --help", code="bad_usage", is_json=is_json)
    sys.exit(error.exit_code)


def _report_fault(error: Exception, words: list[str], *, is_json: bool) -> None:
    fault = "fault_" + secrets.token_hex(6)
    log = _fault_log(words)
    story = "".join(traceback.format_exception(error))
    where = "run it again with --debug to see it"
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            file.write(f"{at} {fault} steelyard {__version__} {words[0] if words else ''}\n{story}\n")
        where = f"the whole story is in {log}"
    print_error(f"this is a defect of ours ({fault}): {where}", code=Fault.code, is_json=is_json)
    sys.exit(1)


def _fault_log(words: list[str]) -> Path | None:
    named = [words[index + 1] for index, word in enumerate(words[:-1]) if word == "--home"]
    try:
        folder = find_home(Path(named[0]) if named else None) / "logs"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ConfigError):
        return None
    return folder / "faults.log"
