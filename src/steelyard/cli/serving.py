"""``steelyard chain run`` and its like for gateway, node and validator: the processes, each until SIGINT or SIGTERM.

1. The first line on standard output says in JSON that the process is ready and where it listens; logs go to
   standard error.
2. A setting that can't be, a port in use or a missing weight file is one line and status 2.
3. SIGUSR1 logs what the process holds, `process_counted`: tasks, threads, open files. It is how a leak is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, parse_amount
from steelyard.cli.output import example, print_ready
from steelyard.cli.running import SUPERVISOR_VARIABLE, await_orphaned
from steelyard.errors import BadRequest, Fault

if TYPE_CHECKING:
    from steelyard.chain.embedded.server import RunningChain
    from steelyard.gateway.serve import Running

THREAD_SWITCH_S = 0.001
"""How long the EVM may keep the interpreter while a request waits."""

PANEL = "Running a part of it"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, what, command, shown in (
        ("chain", "The embedded chain.", run_chain, ("steelyard chain run", "steelyard chain run --port 8546")),
        (
            "gateway",
            "The buyer's process.",
            run_gateway,
            ("steelyard gateway run", "steelyard gateway run --port 8081"),
        ),
        (
            "node",
            "The provider's process.",
            run_node,
            (
                "steelyard node run --service smollm2-135m-instruct",
                "steelyard node run --wallet node-2 --gateway https://gateway.example",
                "steelyard node run --service weather --kind rest --upstream https://api.example/v1 --price 50",
                "steelyard node run --service eth --kind rpc --upstream http://127.0.0.1:8545 "
                "--upstream-ws ws://127.0.0.1:8546 --price 2",
            ),
        ),
        (
            "validator",
            "The checker's process.",
            run_validator,
            ("steelyard validator run", "steelyard validator run --wallet validator-2 --probes-per-hour 30"),
        ),
    ):
        group = typer.Typer(help=what, no_args_is_help=True)
        group.command("run", epilog=example(*shown))(command)
        group.callback()(_group(what))
        app.add_typer(group, name=name, rich_help_panel=PANEL, epilog=example(shown[0]))


def run_chain(
    context: typer.Context,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = None,
    db: Annotated[Path | None, typer.Option("--db", help="The chain's SQLite file.")] = None,
    fund: Annotated[
        list[str] | None, typer.Option("--fund", help="Wallet or address that gets gas in a new chain; repeatable.")
    ] = None,
    heartbeat_s: Annotated[float | None, typer.Option("--heartbeat-s", help="Seconds until an empty block.")] = None,
    is_dev_time: Annotated[bool, typer.Option("--dev-time", help="Allow evm_increaseTime and evm_mine.")] = False,
) -> None:
    """Run the embedded chain: JSON-RPC over HTTP and WebSocket on this machine, kept in one SQLite file."""
    from steelyard.chain.embedded.settings import ChainSettings
    from steelyard.cli.wallets import list_wallets

    invocation = Invocation.of(context)
    invocation.override("chain", port=port, db=db, heartbeat_s=heartbeat_s)
    settings = invocation.settings
    wallets = [info.account for info in list_wallets(settings.keys_folder).values() if info and info.is_development]
    funded = [invocation.find_account(name) for name in fund] if fund else wallets
    chain = ChainSettings(
        db=settings.chain_db,
        port=settings.chain.port,
        host=settings.chain.host,
        chain_id=settings.chain.chain_id,
        heartbeat_s=settings.chain.heartbeat_s,
        is_dev_time=is_dev_time,
        fund=tuple(funded),
    )
    serve_until_told(lambda stop: _serve_chain(chain, stop))


def run_gateway(
    context: typer.Context,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="For clients; 0 takes a free one.")
    ] = None,
    link_port: Annotated[
        int | None, typer.Option("--link-port", min=0, max=65535, help="For nodes; 0 takes a free one.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on for clients.")] = None,
    wallet: Annotated[str | None, typer.Option("--wallet", "-w", help="The gateway's wallet.")] = None,
    database: Annotated[str | None, typer.Option("--database", help="URL, like postgresql://user@host/name.")] = None,
    process: Annotated[str | None, typer.Option("--process", help="Stable name of this process.")] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, max=64, help="Processes behind the port; needs PostgreSQL.")
    ] = None,
    is_verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run a gateway: OpenAI-compatible API for clients, links for nodes, vouchers for providers."""
    invocation = Invocation.of(context)
    said = {"port": port, "link_port": link_port, "host": host, "wallet": wallet, "database": database}
    invocation.override("gateway", process=process, processes=processes, **said)
    invocation.settings  # noqa: B018  # what is wrong with the settings is told before anything is opened
    _configure(is_verbose)
    if invocation.settings.gateway.processes > 1:
        from steelyard.cli.gateway_processes import serve_processes

        serve_until_told(lambda stop: serve_processes(invocation, stop))
    else:
        serve_until_told(lambda stop: _serve_gateway(invocation, stop))


def run_node(
    context: typer.Context,
    services: Annotated[
        list[str] | None, typer.Option("--service", "-s", help="A registered service to sell; repeatable.")
    ] = None,
    gateways: Annotated[
        list[str] | None, typer.Option("--gateway", "-g", help="A gateway's URL, or registry; repeatable.")
    ] = None,
    wallet: Annotated[str | None, typer.Option("--wallet", "-w", help="The provider's wallet.")] = None,
    database: Annotated[str | None, typer.Option("--database", help="URL, like postgresql://user@host/name.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="Of the one --service, if it is yet to be registered: rpc or rest.")
    ] = "",
    upstream: Annotated[str, typer.Option("--upstream", help="Your own server or blockchain node: its URL.")] = "",
    upstream_ws: Annotated[str, typer.Option("--upstream-ws", help="The same node's WebSocket, ws:// or wss://.")] = "",
    price: Annotated[
        int | None,
        typer.Option("--price", parser=parse_amount, metavar="YARD", help="YARD per 1,000,000 calls or units."),
    ] = None,
    chain: Annotated[str, typer.Option("--chain", help="The blockchain, if the service isn't named like it.")] = "",
    family: Annotated[
        str, typer.Option("--family", help="Of a blockchain that isn't in the catalogue, like evm or cosmos.")
    ] = "",
    is_verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run a provider: dials out to gateways, serves models, signs receipts, redeems vouchers; needs no open port.

    With --kind, --upstream and --price it registers and offers the service first, if that isn't done.
    """
    invocation = Invocation.of(context)
    entries = None if not services else _merge_services(invocation, services)
    options = {name: url for name, url in (("upstream", upstream), ("upstream_ws", upstream_ws)) if url}
    traits = {name: word for name, word in (("chain", chain), ("family", family)) if word}
    is_sale = bool(kind or options or traits or price is not None)
    if is_sale and (entries is None or len(entries) != 1):
        raise BadRequest("--kind, --upstream and --price are of one service: name it with --service", param="service")
    if entries is not None and options:
        entries[0]["options"] = {**entries[0].get("options", {}), **options}
    invocation.override("node", services=entries, gateways=gateways, wallet=wallet, database=database)
    invocation.settings  # noqa: B018  # what is wrong with the settings is told before anything is opened
    _configure(is_verbose)
    said = (kind, price, traits) if is_sale else None
    serve_until_told(lambda stop: _serve_node(invocation, stop, said))


def run_validator(
    context: typer.Context,
    wallet: Annotated[str | None, typer.Option("--wallet", "-w", help="The validator's wallet.")] = None,
    gateways: Annotated[
        list[str] | None, typer.Option("--gateway", "-g", help="A gateway's URL, or registry; repeatable.")
    ] = None,
    database: Annotated[str | None, typer.Option("--database", help="URL, like postgresql://user@host/name.")] = None,
    probes_per_hour: Annotated[
        float | None, typer.Option("--probes-per-hour", min=0, help="Calls to buy as an ordinary client.")
    ] = None,
    is_verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run a validator: checks receipts by replaying them, signs verdicts, opens challenges, sits on panels."""
    invocation = Invocation.of(context)
    invocation.override(
        "validator", wallet=wallet, gateways=gateways, database=database, probes_per_hour=probes_per_hour
    )
    invocation.settings  # noqa: B018  # what is wrong with the settings is told before anything is opened
    _configure(is_verbose)
    serve_until_told(lambda stop: _serve_validator(invocation, stop))


def serve_until_told(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a process until SIGINT, SIGTERM or the end of its supervisor, on uvloop where it is installed."""

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, _log_counts)
        if supervisor := os.environ.get(SUPERVISOR_VARIABLE):
            watch = asyncio.create_task(await_orphaned(supervisor))
            watch.add_done_callback(lambda _: stop.set())
        await work(stop)

    factory = None
    with contextlib.suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


def _log_counts() -> None:
    import threading

    import structlog

    files = sum(1 for _ in Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").is_dir() else -1
    log = structlog.get_logger("steelyard.cli")
    log.info("process_counted", tasks=len(asyncio.all_tasks()), threads=threading.active_count(), files=files)


async def _serve_chain(settings: Any, stop: asyncio.Event) -> None:
    import sys

    from steelyard.chain.embedded.server import serve

    _configure(is_verbose=False)
    sys.setswitchinterval(THREAD_SWITCH_S)

    def announce(running: RunningChain) -> None:
        print_ready(rpc=running.rpc_url, ws=running.websocket_url, chain_id=running.chain.chain_id, pid=os.getpid())

    await serve(settings, stop=stop, on_ready=announce)


async def _serve_gateway(invocation: Invocation, stop: asyncio.Event) -> None:
    from steelyard.cli.gateway_wiring import open_gateway_parts
    from steelyard.gateway.serve import serve

    def announce(running: Running) -> None:
        own = {"own_url": running.own_url} if running.own_url else {}
        print_ready(base_url=running.base_url, link_url=running.address.link_url, **own, pid=os.getpid())

    async with open_gateway_parts(invocation) as parts:
        await serve(parts, stop=stop, on_ready=announce)


async def _serve_node(
    invocation: Invocation, stop: asyncio.Event, said: tuple[str, int | None, dict[str, str]] | None
) -> None:
    from steelyard.cli.gateway_finding import GatewayFinder
    from steelyard.cli.node_wiring import open_node_parts
    from steelyard.node.serve import serve

    if said is not None:
        from steelyard.cli.selling import Sale, prepare_sale
        from steelyard.storage.claims import claim_process
        from steelyard.storage.database import open_database

        (entry,), (kind, price, traits) = invocation.settings.node.services, said
        sale = Sale(name=entry.name, kind=kind, price=price, options=entry.options, traits=traits)
        database = await open_database(invocation.settings.node_database)
        try:
            async with claim_process(database, invocation.settings.node.wallet):  # nothing is offered for one that runs
                await prepare_sale(invocation, sale)
        finally:
            await database.aclose()
    crashes: list[BaseException] = []

    def crash(error: BaseException) -> None:
        crashes.append(error)
        stop.set()

    async with open_node_parts(invocation, crash, is_serving=True) as (parts, chain):
        finder = GatewayFinder(chain, invocation.settings.node.gateways)
        gateways = await finder.find_first(stop)
        if stop.is_set():
            return
        names = [offered.signed_offer.service for offered in parts.services.values()]

        def announce() -> None:
            print_ready(provider=parts.key.account, services=names, pid=os.getpid())

        await serve(parts, gateways, stop, find=finder.find, on_ready=announce)
    if crashes:
        raise Fault("the database failed: the node stopped before anything left it unrecorded") from crashes[0]


async def _serve_validator(invocation: Invocation, stop: asyncio.Event) -> None:
    from steelyard.cli.validator_wiring import open_validator

    async with open_validator(invocation) as (validator, signer):
        print_ready(validator=signer.sender.account, pid=os.getpid())
        work = asyncio.create_task(validator.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stopping):
            task.cancel()
        await asyncio.gather(work, stopping, return_exceptions=stop.is_set())


def _merge_services(invocation: Invocation, names: list[str]) -> list[dict[str, Any]]:
    configured = {entry.name: entry for entry in invocation.settings.node.services}
    return [configured[name].model_dump() if name in configured else {"name": name} for name in names]


def _configure(is_verbose: bool) -> None:
    from steelyard.cli.logs import configure_logs

    configure_logs(is_verbose=is_verbose)


def _group(what: str) -> Callable[[], None]:
    def callback() -> None:
        pass

    callback.__doc__ = what
    return callback
