"""A whole network on this machine: what `up`, `demo`, tests and benchmarks start.

1. Everything lies in one home: settings, development keys, chain, databases, blobs, logs. `down` and `up` again go on
   where it stopped.
2. A home that belongs to another network is never touched.
3. Every part is its own process, started by the same commands that a person would type.

Law: docs/cli.md, "steelyard up".
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.cli.genesis import (
    Accounts,
    Funds,
    Genesis,
    ServicePlan,
    open_accounts,
    open_deployment,
    provider_names,
)
from steelyard.cli.processes import Child, Processes
from steelyard.cli.settings import Settings
from steelyard.cli.settings_file import CONFIG_FILE, load_config_file, load_settings
from steelyard.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from steelyard.chain.deployment import Deployment
    from steelyard.chain.parameters import DeploymentParameters

SEED_FILE = "development.seed"
MARK = "# Written by steelyard up: a development network on this machine."
READY_TIMEOUT_S = 60.0
KEY_NAME = "development"
GATEWAY = "gateway"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What a network consists of.

    Args:
        home: its folder. services: from `offerings`. providers: how many nodes; each offers every service.
        gateways, validators: how many; all but the first gateway take free ports.
        chain_port, http_port, link_port: 0 takes a free one.
        node, gateway, validator: further settings of those sections, by key.
        parameters: of the contracts; None takes a development chain's. funds: what accounts begin with.
        node_database: a node's database URL by its name; None keeps SQLite files in the home.
        programs: what runs instead of ``steelyard node run``, by the node's name; for stories of cheats.
        is_dev_time: the chain's clock may be moved forward.
        rpc_url: a development chain that runs already (anvil, say) and has given gas to the accounts; "" starts ours.
    """

    home: Path
    services: Sequence[ServicePlan]
    providers: int = 3
    gateways: int = 1
    validators: int = 0
    chain_port: int = 0
    http_port: int = 0
    link_port: int = 0
    node: dict[str, Any] = field(default_factory=dict)
    gateway: dict[str, Any] = field(default_factory=dict)
    validator: dict[str, Any] = field(default_factory=dict)
    parameters: DeploymentParameters | None = None
    funds: Funds = field(default_factory=Funds)
    node_database: Callable[[str], str] | None = None
    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_dev_time: bool = False
    rpc_url: str = ""


class Network:
    """A network that runs; `base_url` ends in ``/v1``, `key` is a development API key of its (first) gateway.

    `ports` are the gateways', for clients and for links by name; they stay when a part is started again. `keys` and
    `base_urls` are of all gateways by name.
    """

    deployment: Deployment

    def __init__(
        self, plan: NetworkPlan, accounts: Accounts, processes: Processes, ports: dict[str, tuple[int, ...]]
    ) -> None:
        self.plan = plan
        self.accounts = accounts
        self.processes = processes
        self.ports = ports
        self.rpc_url = plan.rpc_url
        self.base_urls = {name: f"http://127.0.0.1:{http_port}/v1" for name, (http_port, _) in ports.items()}
        self.base_url = self.base_urls[GATEWAY]
        self.keys: dict[str, str] = {}

    @property
    def key(self) -> str:
        """A development API key of the first gateway."""
        return self.keys.get(GATEWAY, "")

    @property
    def environment(self) -> dict[str, str]:
        """What commands need to find this network."""
        return {"STEELYARD_HOME": str(self.plan.home), "STEELYARD_CHAIN__RPC_URLS": self.rpc_url}

    @property
    def settings(self) -> Settings:
        """The network's settings, as its processes read them."""
        return load_settings(self.plan.home, {"chain": {"rpc_urls": (self.rpc_url,)}})

    async def start_chain(self) -> Child:
        """Start the embedded chain, on the port that it had if it ran before."""
        port = self.rpc_url.rpartition(":")[2] or str(self.plan.chain_port)
        arguments = ["chain", "run", "--port", port, *(["--dev-time"] if self.plan.is_dev_time else [])]
        child = await self.processes.start("chain", arguments, environment={"STEELYARD_HOME": str(self.plan.home)})
        self.rpc_url = str(child.ready["rpc"])
        return child

    def gateway_database(self, name: str) -> str:
        """Return a gateway's database URL."""
        return self.settings.gateway_database if name == GATEWAY else f"sqlite:///{self.plan.home / (name + '.db')}"

    async def start_gateway(self, name: str = GATEWAY) -> Child:
        """Start a gateway, on its ports."""
        port, link_port = map(str, self.ports[name])
        arguments = ["gateway", "run", "--port", port, "--link-port", link_port]
        if name != GATEWAY:
            arguments += ["--wallet", name, "--process", name, "--database", self.gateway_database(name)]
        return await self.processes.start(name, arguments, environment=self.environment)

    async def start_validator(self, name: str) -> Child:
        """Start a validator; it buys over the gateways with their development keys."""
        keys = {self.base_urls[gateway].removesuffix("/v1"): key for gateway, key in self.keys.items()}
        environment = {**self.environment, "STEELYARD_VALIDATOR__API_KEYS": json.dumps(keys)}
        return await self.processes.start(name, ["validator", "run", "--wallet", name], environment=environment)

    async def start_node(self, name: str) -> Child:
        """Start one provider's node."""
        program = self.plan.programs.get(name, ("-m", "steelyard", "node", "run"))
        arguments = ["--wallet", name]
        arguments += [word for url in self.base_urls.values() for word in ("--gateway", url.removesuffix("/v1"))]
        arguments += [word for service in self.plan.services for word in ("--service", service.name)]
        if self.plan.node_database is not None:
            arguments += ["--database", self.plan.node_database(name)]
        return await self.processes.start(name, arguments, environment=self.environment, program=program)


@asynccontextmanager
async def open_network(plan: NetworkPlan, report: Report) -> AsyncIterator[Network]:
    """Start everything, give the network, and stop everything afterwards.

    Raises:
        ConfigError: the home is another network's, a port is taken, or a part doesn't start; in one line.
    """
    from steelyard.chain.parameters import DeploymentParameters
    from steelyard.chain.rpc import ChainRpc
    from steelyard.storage.blobs import FolderBlobs

    seed = prepare_home(plan)
    settings = load_settings(plan.home)
    accounts = open_accounts(settings.keys_folder, seed, plan.providers, plan.gateways, plan.validators)
    free = choose_ports(plan.http_port, plan.link_port, *(0,) * (2 * (plan.gateways - 1)))
    ports = {name: free[2 * index : 2 * index + 2] for index, name in enumerate(accounts.gateways)}
    network = Network(plan, accounts, Processes(settings.logs_folder), ports)
    try:
        if not plan.rpc_url:
            report("starting the embedded chain")
            await network.start_chain()
        async with ChainRpc([network.rpc_url]) as rpc:
            is_there = settings.deployment_file.exists()
            report("finding the contracts" if is_there else "deploying the contracts")
            parameters = plan.parameters or DeploymentParameters()
            network.deployment = await open_deployment(rpc, accounts, settings.deployment_file, parameters)
            genesis = Genesis(rpc, network.deployment, accounts, plan.funds, FolderBlobs(settings.blobs_folder), report)
            await genesis.build(plan.services, [url.removesuffix("/v1") for url in network.base_urls.values()])
        report("starting the gateway" if plan.gateways == 1 else f"starting {plan.gateways} gateways")
        await asyncio.gather(*(network.start_gateway(name) for name in network.base_urls))
        report(f"starting {plan.providers} provider{'s' if plan.providers > 1 else ''}")
        await asyncio.gather(*(network.start_node(name) for name in provider_names(plan.providers)))
        report("waiting until every provider serves")
        for name in network.base_urls:
            network.keys[name] = await open_key(network, name)
        await await_providers(network)
        if plan.validators:
            report(f"starting {plan.validators} validators")
            await asyncio.gather(*(network.start_validator(name) for name in accounts.validators))
        yield network
    finally:
        await network.processes.stop_all()


async def await_providers(network: Network, count: int | None = None) -> None:
    """Wait until each service has its providers; raises Unavailable after a minute."""
    import aiohttp

    wanted = network.plan.providers if count is None else count
    names = {plan.name for plan in network.plan.services}
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    found: dict[str, int] = {}
    waiting = list(network.base_urls)
    async with aiohttp.ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline:
            gateway = waiting[0]
            authorisation = {"Authorization": f"Bearer {network.keys[gateway]}"}
            async with session.get(network.base_urls[gateway] + "/models", headers=authorisation) as answer:
                listing = await answer.json()
            found = {model["id"]: model["steelyard"]["providers"] for model in listing["data"]}
            if all(found.get(name, 0) >= wanted for name in names):
                del waiting[0]
                if not waiting:
                    return
                continue
            await asyncio.sleep(0.1)
    raise Unavailable(
        f"not every provider serves after {READY_TIMEOUT_S:.0f} s: {found}; logs: {network.plan.home}/logs"
    )


async def open_key(network: Network, gateway: str = GATEWAY) -> str:
    """Return the development API key of a gateway, made once and kept in the network's home (mode 0600)."""
    from steelyard.storage.database import open_database
    from steelyard.storage.keys import create_key, find_key

    file = network.plan.home / ("development.key" if gateway == GATEWAY else f"{gateway}.key")
    database = await open_database(network.gateway_database(gateway))
    try:
        if file.exists():
            secret = file.read_text().strip()
            if await find_key(database, secret) is not None:
                return secret
        name = f"{KEY_NAME}-{secrets.token_hex(3)}" if file.exists() else KEY_NAME
        _, secret = await create_key(database, name, now_ms=time.time_ns() // 1_000_000)
    finally:
        await database.aclose()
    write_private(file, secret + "\n")
    return secret


def prepare_home(plan: NetworkPlan) -> bytes:
    """Write the settings and the seed of a network's home, once; return the seed.

    Raises:
        ConfigError: the home holds settings that `up` didn't write.
    """
    config, kept = plan.home / CONFIG_FILE, load_config_file(plan.home)
    if config.exists() and not config.read_text("utf-8").startswith(MARK):
        raise ConfigError(
            f"{plan.home} belongs to another network: name an empty folder with --home, or move {config} away"
        )
    plan.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = merge_config(plan, kept)
    if wanted != kept:
        config.write_text(render_config(wanted), "utf-8")
    seed = plan.home / SEED_FILE
    if not seed.exists():
        write_private(seed, secrets.token_hex(32) + "\n")
    return bytes.fromhex(seed.read_text().strip())


def merge_config(plan: NetworkPlan, kept: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a network's home: what stood there, with the plan's ports, settings and services."""
    merged: dict[str, Any] = {name: dict(section) for name, section in kept.items()}
    chain, gateway, node = (merged.setdefault(name, {}) for name in ("chain", "gateway", "node"))
    if plan.validator:
        merged.setdefault("validator", {}).update(plan.validator)
    chain["port"] = plan.chain_port
    if plan.chain_port:
        chain["rpc_urls"] = [f"http://127.0.0.1:{plan.chain_port}"]
    gateway |= {"port": plan.http_port, "link_port": plan.link_port, **plan.gateway}
    entries = {entry["name"]: entry for entry in node.pop("services", ())}
    for service in plan.services:
        options = {"options": service.options} if service.options else {}
        entries[service.name] = {"name": service.name} | entries.get(service.name, {}) | options
    node |= plan.node
    node["services"] = list(entries.values())
    return merged


def render_config(config: dict[str, Any]) -> str:
    """Return a settings file of sections with plain values, and of the services that a node sells."""
    lines = [MARK, "# Change what you like; the ports are kept too."]
    for name, section in config.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items() if key != "services")]
        for service in section.get("services", ()):
            lines += ["", f"[[{name}.services]]", *(f"{key} = {_toml(value)}" for key, value in service.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def choose_ports(*wanted: int) -> tuple[int, ...]:
    """Return each wanted port if it is free, and a free one for each 0; raises ConfigError for one in use."""
    chosen, probes = [], []
    for port in wanted:
        probe = socket.socket()
        probes.append(probe)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"port {port} is in use: stop what holds it, then try again") from error
        chosen.append(int(probe.getsockname()[1]))
    for probe in probes:
        probe.close()
    return tuple(chosen)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
