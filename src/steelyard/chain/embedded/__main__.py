"""`python -m steelyard.chain.embedded`: one embedded chain in a process of its own.

1. Standard output carries one JSON line, when the first request can be answered; the log goes to standard error.
2. A wrong setting, a locked file or a port in use is one line on standard error and exit status 2.
3. SIGINT and SIGTERM end it in good order; kill -9 loses nothing that was acknowledged.

Law: docs/spec/embedded-chain.md, section 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
from pathlib import Path

import structlog

from steelyard.chain.embedded.settings import (
    DEFAULT_CHAIN_ID,
    DEFAULT_HEARTBEAT_S,
    ChainSettings,
)
from steelyard.errors import BadRequest, ConfigError
from steelyard.protocol.ids import parse_account

THREAD_SWITCH_S = 0.001  # how long the EVM may keep the interpreter while a request waits
THREAD_STACK_BYTES = 64 * 1024 * 1024  # of address space: 1,024 nested calls, also where threads get little by default


def main(arguments: list[str] | None = None) -> int:
    """Run a chain until it is told to stop; return the exit status."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        settings = _parse(arguments)
        asyncio.run(_serve(settings))
    except (BadRequest, ConfigError) as error:
        sys.stderr.write(f"steelyard chain: {error.message}\n")
        return 2
    return 0


def _parse(arguments: list[str] | None) -> ChainSettings:
    parser = argparse.ArgumentParser(
        prog="python -m steelyard.chain.embedded",
        description="An EVM chain in one SQLite file, with JSON-RPC over HTTP and WebSocket on one local port.",
        epilog="example: python -m steelyard.chain.embedded --db chain.db --port 8545 --fund 0xYourAccount",
    )
    parser.add_argument("--db", type=Path, required=True, help="the SQLite file; made when missing")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="the address to bind, loopback by default")
    parser.add_argument("--chain-id", type=int, default=DEFAULT_CHAIN_ID, help="of a new database")
    parser.add_argument(
        "--heartbeat-s", type=float, default=DEFAULT_HEARTBEAT_S, help="seconds until an empty block; 0 makes none"
    )
    parser.add_argument("--fund", action="append", default=[], metavar="0xACCOUNT", help="gas at genesis; repeatable")
    parser.add_argument("--cors", action="append", metavar="ORIGIN", help="browser origin that may read; default any")
    parser.add_argument("--dev-time", action="store_true", help="open evm_increaseTime and evm_mine")
    parser.add_argument("--full-sync", action="store_true", help="survive power loss, not only a killed process")
    given = parser.parse_args(arguments)
    return ChainSettings(
        db=given.db,
        port=given.port,
        host=given.host,
        chain_id=given.chain_id,
        heartbeat_s=given.heartbeat_s,
        is_dev_time=given.dev_time,
        fund=tuple(parse_account(text, "fund") for text in given.fund),
        is_full_sync=given.full_sync,
        cors_origins=tuple(given.cors or ("*",)),
    )


async def _serve(settings: ChainSettings) -> None:
    from steelyard.chain.embedded.server import RunningChain, serve  # the EVM takes a second to load; --help doesn't

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    sys.setswitchinterval(THREAD_SWITCH_S)
    threading.stack_size(THREAD_STACK_BYTES)

    def announce(running: RunningChain) -> None:
        ready = {
            "ready": True,
            "rpc": running.rpc_url,
            "ws": running.websocket_url,
            "chain_id": running.chain.chain_id,
            "block": running.chain.head.number,
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()

    await serve(settings, stop=stop, on_ready=announce)


if __name__ == "__main__":
    sys.exit(main())
