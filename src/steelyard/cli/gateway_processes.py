"""Several gateway processes behind one port: a parent that starts them, and starts again who ended.

1. Each is a gateway like any other: its own name, lanes and link, and on loopback a port of its own for operators. They
   share keys, limits and budgets in PostgreSQL.
2. Each listens on the shared port (SO_REUSEPORT): the kernel spreads connections, and who is gone gets none.
3. The first keeps the name of a gateway that ran alone, and so its lanes.

Law: docs/cli.md, section 10; docs/spec/gateway.md, section 8.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from steelyard.cli.invocation import Invocation
from steelyard.cli.local_network import choose_ports
from steelyard.cli.output import print_ready
from steelyard.cli.processes import Child, Processes
from steelyard.cli.settings import GatewaySection
from steelyard.errors import ConfigError
from steelyard.storage.database import parse_url


@dataclass(frozen=True, slots=True)
class Place:
    """One process: its name, its ports for nodes and for operators, and what nodes are told (empty: the port)."""

    name: str
    link_port: int
    own_port: int
    link_url: str


def plan_places(section: GatewaySection, link_ports: Sequence[int], own_ports: Sequence[int]) -> list[Place]:
    """Return the processes of a gateway's settings.

    Raises:
        ConfigError: nodes could not tell the processes' links apart.
    """
    if section.link_url and "{n}" not in section.link_url:
        raise ConfigError(
            f"gateway.link_url is {section.link_url!r} for {section.processes} processes: write {{n}} where their "
            "numbers stand, 1 to N, so that nodes can dial each"
        )
    return [
        Place(
            section.process if number == 1 else f"{section.process}-{number}",
            link_port,
            own_port,
            section.link_url.replace("{n}", str(number)),
        )
        for number, (link_port, own_port) in enumerate(zip(link_ports, own_ports, strict=True), 1)
    ]


async def serve_processes(invocation: Invocation, stop: asyncio.Event) -> None:
    """Run all processes until `stop`.

    Raises:
        ConfigError: the database is no PostgreSQL, a port is taken, or a process doesn't start the first time.
    """
    settings = invocation.settings
    section = settings.gateway
    if parse_url(settings.gateway_database).get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigError(
            f"{section.processes} gateway processes need PostgreSQL, where they share keys and budgets: set "
            "gateway.database, or --database postgresql://user@host/name"
        )
    wanted = [section.link_port + index if section.link_port else 0 for index in range(section.processes)]
    ports = choose_ports(*wanted, *(0,) * section.processes)
    places = plan_places(section, ports[: section.processes], ports[section.processes :])
    with _hold_port(section) as port:
        processes = Processes(settings.logs_folder)
        try:
            await asyncio.gather(*(_start(invocation, processes, place, port) for place in places))
            children = [processes.children[place.name] for place in places]
            print_ready(
                base_url=children[0].ready["base_url"],
                link_urls=[child.ready["link_url"] for child in children],
                own_urls=[child.ready["own_url"] for child in children],
                pids=[child.pid for child in children],
                pid=os.getpid(),
            )
            keeping = [
                asyncio.create_task(processes.keep(place.name, partial(_start, invocation, processes, place, port)))
                for place in places
            ]
            await stop.wait()
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
        finally:
            await asyncio.gather(*(processes.stop(place.name) for place in places))


async def _start(invocation: Invocation, processes: Processes, place: Place, port: int) -> Child:
    settings = invocation.settings
    section = settings.gateway
    environment = {
        "STEELYARD_HOME": str(settings.home),
        "STEELYARD_CHAIN__RPC_URLS": ",".join(settings.chain.rpc_urls),
        "STEELYARD_GATEWAY__PROCESSES": "1",
        "STEELYARD_GATEWAY__OWN_PORT": str(place.own_port),
        "STEELYARD_GATEWAY__DATABASE": settings.gateway_database,
        "STEELYARD_GATEWAY__LINK_URL": place.link_url,
    }
    arguments = ["gateway", "run", "--port", str(port), "--link-port", str(place.link_port), "--host", section.host]
    arguments += ["--wallet", section.wallet, "--process", place.name]
    return await processes.start(place.name, arguments, environment=environment)


@contextmanager
def _hold_port(section: GatewaySection) -> Iterator[int]:
    """Hold the shared port while the block runs, without ever taking a connection; give its number."""
    family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
    with socket.socket(family) as probe, socket.socket(family) as held:
        try:
            if section.port:  # a port that somebody else listens on could be shared with them unseen
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((section.host, section.port))
                probe.close()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((section.host, section.port))
        except OSError as error:
            raise ConfigError(
                f"can't listen for clients on {section.host}:{section.port}: {error.strerror or error}; choose another "
                "with gateway.port"
            ) from error
        yield int(held.getsockname()[1])
