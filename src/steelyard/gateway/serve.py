"""Starts a gateway process: `serve(parts)` until it is told to stop; `open_gateway(parts)` inside another program.

1. Start: claim the process name, recover what a crash left, read the chain, listen for nodes, then for clients.
2. Stop: take no new request, let those in flight end, sign and flush the last vouchers, close the links, save budgets.
3. If the database fails, the process stops loudly: nothing may leave it that is not on disk.

Law: docs/spec/gateway.md, section 8.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
import uvicorn

from steelyard.chain.deployment import Deployment
from steelyard.chain.fault_desk import LieCourt
from steelyard.errors import ConfigError, Fault, SteelyardError
from steelyard.gateway.assembly import Gateway, assemble, unix_ms
from steelyard.gateway.catalogue import BindService
from steelyard.gateway.chain_view import ChainView
from steelyard.gateway.http_protocol import GatewayProtocol
from steelyard.gateway.network_quality import QualityView
from steelyard.gateway.pages import Address
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.siblings import NOTE_S, Siblings
from steelyard.gateway.socket_protocol import SocketProtocol
from steelyard.gateway.watch import keep_beating
from steelyard.gateway.x402 import Payments
from steelyard.link.channel import TlsIdentity
from steelyard.link.limits import LinkLimits
from steelyard.link.server import LINK_PATH, LinkServer
from steelyard.protocol.signing import SigningKey
from steelyard.storage.claims import claim_process
from steelyard.storage.database import Database
from steelyard.storage.operations import Operation
from steelyard.storage.writer import open_writer

_BEAT_S = 0.05
_SLOW_BEAT_S = 1.0
_EXPIRY_BEAT_S = 600.0
_LAST_BATCH_BEATS = 20
_GC_THRESHOLDS = (20_000, 20, 20)

_log = structlog.get_logger("steelyard.gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayParts:
    """Everything that a gateway process is made of; `cli` builds it.

    Attributes:
        key: the gateway's account. deployment: the contracts. database: open; its life is the caller's.
        chain: `chain_reader.ChainReader(rpc, deployment)`. bind_service: from `services.discovery`.
        link_limits, link_tls: of the server that nodes dial; without TLS only loopback is taken.
        quality: what validators say of providers, or None. court: where lies are proven; None only keeps them.
        payments: how callers without a key pay; None: not at all.
    """

    settings: GatewaySettings
    key: SigningKey
    deployment: Deployment
    database: Database
    chain: ChainView
    bind_service: BindService
    link_limits: LinkLimits | None = None
    link_tls: TlsIdentity | None = None
    quality: QualityView | None = None
    payments: Payments | None = None
    court: LieCourt | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that listens; `crashed` is set once something went so wrong that it must stop.

    `own_url` is where this process alone answers, if it shares its port with others.
    """

    address: Address
    gateway: Gateway
    links: LinkServer
    crashed: asyncio.Event
    own_url: str = ""

    @property
    def base_url(self) -> str:
        """What a client's `base_url` is set to, ending in ``/v1``."""
        return self.address.base_url


class _HttpServer(uvicorn.Server):
    """uvicorn, without its signal handlers: the process has its own order of stopping."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.is_up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def open_gateway(parts: GatewayParts) -> AsyncIterator[Running]:
    """Run a gateway while the block runs.

    Raises:
        ConfigError: the process name, the HTTP port or the link port is taken.
    """
    settings = parts.settings
    crashed = asyncio.Event()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(claim_process(parts.database, settings.process))
        writer = await open_writer(
            parts.database, on_failure=_log_refused_write, on_crash=lambda error: _crash(error, crashed)
        )
        stack.push_async_callback(writer.aclose)
        gateway = await assemble(
            settings,
            parts.key,
            parts.deployment,
            parts.database,
            writer,
            parts.chain,
            parts.bind_service,
            parts.quality,
            parts.court,
            payments=parts.payments,
        )
        stack.push_async_callback(gateway.aclose)
        links = LinkServer(parts.key, parts.deployment.domain, gateway.side, parts.link_limits)
        listener = _bind(settings.host, settings.port, is_shared=settings.own_port > 0)
        stack.callback(listener.close)
        own = _bind("127.0.0.1", settings.own_port) if settings.own_port else None
        if own is not None:
            stack.callback(own.close)
        link_port = await links.start(settings.link_host, settings.link_port, parts.link_tls)
        stack.push_async_callback(links.aclose)
        stack.push_async_callback(_last_vouchers, gateway)
        address = _address(settings, listener.getsockname()[1], link_port, is_tls=parts.link_tls is not None)
        gateway.pages.address = address
        siblings = Siblings(parts.database, settings.process, parts.key.account, address.link_url, clock_ms=unix_ms)
        await siblings.beat()
        stack.push_async_callback(siblings.leave)
        gateway.pages.list_links = lambda: siblings.links
        beats = [
            asyncio.create_task(keep_beating(name, every_s, beat), name=f"gateway-{name}")
            for name, every_s, beat in (
                ("pay", _BEAT_S, gateway.beat),
                ("settle", _SLOW_BEAT_S, gateway.slow_beat),
                ("chain", settings.watch_s, gateway.watch.beat),
                ("expiry", _EXPIRY_BEAT_S, gateway.replays.forget_expired),
                ("siblings", NOTE_S, siblings.beat),
            )
        ]
        beats.append(asyncio.create_task(gateway.desk.run(), name="gateway-lies"))
        stack.push_async_callback(_cancel, beats)
        stack.push_async_callback(gateway.fronts.aclose)
        own_url = "" if own is None else f"http://127.0.0.1:{own.getsockname()[1]}"
        await stack.enter_async_context(_http(gateway, [listener] if own is None else [listener, own], settings))
        _log.info("gateway_started", base_url=address.base_url, link_url=address.link_url)
        yield Running(address, gateway, links, crashed, own_url)
        gateway.is_stopping = True
        _log.info("gateway_stopping", in_flight=gateway.settlement.in_flight)


async def serve(
    parts: GatewayParts, *, stop: asyncio.Event | None = None, on_ready: Callable[[Running], None] | None = None
) -> None:
    """Run a gateway until SIGINT, SIGTERM or `stop`.

    Raises:
        ConfigError: it can't start. Fault: the database failed, and the process must end.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    # What was imported lives for ever; calls make few cycles. Both spare the collector's passes over everything.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with open_gateway(parts) as running:
            if on_ready is not None:
                on_ready(running)
            waits = [asyncio.create_task(event.wait()) for event in (stop, running.crashed)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(waits)
            if running.crashed.is_set():
                raise Fault("the database failed: the gateway stopped before anything left it unrecorded")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _http(gateway: Gateway, listeners: list[socket.socket], settings: GatewaySettings) -> AsyncIterator[None]:
    config = uvicorn.Config(
        gateway.app,
        http=partial(GatewayProtocol, gateway.fast),  # type: ignore[arg-type]  # it is called like the class
        ws=SocketProtocol,
        ws_max_size=settings.max_body_bytes,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.drain_s) or 1,
        backlog=2048,
    )
    server = _HttpServer(config)
    task = asyncio.create_task(server.serve(sockets=listeners), name="gateway-http")
    up = asyncio.create_task(server.is_up.wait())
    await asyncio.wait((task, up), return_when=asyncio.FIRST_COMPLETED)
    if not server.is_up.is_set():
        up.cancel()
        await task
        raise Fault("the HTTP server did not start")
    try:
        yield
    finally:
        server.should_exit = True
        await task


def _bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"can't listen for clients on {host}:{port}: {error.strerror or error}; choose another with gateway.port"
        ) from error
    listener.setblocking(False)
    return listener


def _address(settings: GatewaySettings, port: int, link_port: int, *, is_tls: bool) -> Address:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    link_host = f"[{settings.link_host}]" if ":" in settings.link_host else settings.link_host
    base = (settings.public_url or f"http://{host}:{port}").rstrip("/")
    link = settings.link_url or f"{'wss' if is_tls else 'ws'}://{link_host}:{link_port}{LINK_PATH}"
    return Address(base if base.endswith("/v1") else base + "/v1", link)


async def _last_vouchers(gateway: Gateway) -> None:
    for _ in range(_LAST_BATCH_BEATS):
        if not gateway.payer.awaits_batches:
            break
        await asyncio.sleep(_BEAT_S)
    try:
        await gateway.payer.sign_due(is_last=True)
    except SteelyardError as error:
        _log.error("last_vouchers_failed", code=error.code, reason=error.message)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _log_refused_write(operation: Operation, fault: Fault) -> None:
    _log.error("write_refused", write=operation.name, reason=fault.message)


def _crash(error: BaseException, crashed: asyncio.Event) -> None:
    _log.critical("database_failed", reason=str(error))
    crashed.set()
