"""Puts a node process together from the settings: key, chain, database, blobs, engines, services.

1. A service is served as the chain registered it: its manifest comes by digest, from the blob store or from here.
2. What the chain lacks is told before an engine is opened.
3. A service takes no more calls at once than its engine runs and keeps waiting: the next one is answered ``busy``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields

import structlog

from steelyard.chain.fault_desk import ContractCourt
from steelyard.cli.chain_access import ChainAccess, open_chain, open_signer
from steelyard.cli.engine_wiring import Engines, Ordered
from steelyard.cli.invocation import Invocation
from steelyard.cli.settings import NodeSection, ServiceEntry
from steelyard.errors import ConfigError, Fault, NotProvable
from steelyard.node.chain_view import ContractChain
from steelyard.node.node import NodeParts
from steelyard.node.orders import NodeService
from steelyard.node.settings import NodeSettings
from steelyard.node.terms import load_terms
from steelyard.protocol.cid import Cid
from steelyard.protocol.ids import service_id
from steelyard.services.discovery import InstalledServices, installed_services
from steelyard.services.manifest import Manifest, decode_manifest
from steelyard.storage.blobs import BlobStore, FolderBlobs
from steelyard.storage.claims import claim_process
from steelyard.storage.database import open_database
from steelyard.storage.operations import Operation
from steelyard.storage.writer import open_writer
from steelyard.weights.cache import WeightCache

_log = structlog.get_logger("steelyard.cli")


def node_settings(section: NodeSection) -> NodeSettings:
    """Return the node room's own settings from the section of the same name."""
    return NodeSettings(**{field.name: getattr(section, field.name) for field in fields(NodeSettings)})


@asynccontextmanager
async def open_node_parts(
    invocation: Invocation, on_crash: Callable[[BaseException], None], *, is_serving: bool
) -> AsyncIterator[tuple[NodeParts, ChainAccess]]:
    """Give everything that a node needs, and close it afterwards.

    Args:
        on_crash: told if the database fails. is_serving: open services and engines too, and hold the node's name.

    Raises:
        ConfigError: what is missing or doesn't fit, in one line.
    """
    settings = invocation.settings
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(open_chain(invocation))
        signer = open_signer(invocation, chain, settings.node.wallet)
        database = await open_database(settings.node_database)
        stack.push_async_callback(database.aclose)
        if is_serving:
            await stack.enter_async_context(claim_process(database, settings.node.wallet))
        writer = await open_writer(database, on_failure=_log_refused, on_crash=on_crash)
        stack.push_async_callback(writer.aclose)
        blobs = FolderBlobs(settings.blobs_folder)
        view = ContractChain(chain.rpc, chain.deployment, signer.sender)
        services: Mapping[bytes, NodeService] = {}
        if is_serving:
            ordered = await _order_services(chain, blobs, settings.node.services)
            domain, name = chain.deployment.domain, signer.name
            offers = [await load_terms(view, signer.key, domain, item.manifest, wallet=name) for item in ordered]
            engines = Engines(settings.node, WeightCache(settings.weights_folder), ordered)
            stack.push_async_callback(engines.aclose)
            services = {}
            for item, offer in zip(ordered, offers, strict=True):
                kind = installed_services().find(item.manifest.kind)
                engine = await engines.open(item) if kind.needs_engine else None
                service = kind(item.manifest, engine=engine, options=item.entry.options or None)
                stack.push_async_callback(service.aclose)
                await service.prepare(_ignore)
                bound = engines.max_calls(item) if kind.needs_engine else 0
                services[service_id(item.manifest.name)] = NodeService(service, kind.apis, offer, bound)
        parts = NodeParts(
            key=signer.key,
            domain=chain.deployment.domain,
            chain=view,
            database=database,
            writer=writer,
            blobs=blobs,
            services=services,
            settings=node_settings(settings.node),
            on_crash=on_crash,
            court=ContractCourt(chain.rpc, chain.deployment, signer.sender),
        )
        yield parts, chain


async def _order_services(chain: ChainAccess, blobs: BlobStore, entries: Sequence[ServiceEntry]) -> list[Ordered]:
    if not entries:
        raise ConfigError(
            "this node sells nothing: name a service with --service NAME, or node.services in config.toml"
        )
    installed = installed_services()
    return [await _order_service(chain, blobs, entry, installed) for entry in entries]


async def _order_service(
    chain: ChainAccess, blobs: BlobStore, entry: ServiceEntry, installed: InstalledServices
) -> Ordered:
    registered = await chain.registry.fetch_service(service_id(entry.name))
    if registered is None:
        raise ConfigError(
            f"the service {entry.name!r} is not registered: steelyard services list shows what is, and "
            f"steelyard services describe {entry.name} KIND makes the manifest of a new one"
        )
    return Ordered(entry, await _load_manifest(blobs, registered.manifest, entry.name, registered.kind, installed))


async def _load_manifest(
    blobs: BlobStore, digest: bytes, name: str, kind: str, installed: InstalledServices
) -> Manifest:
    try:
        return decode_manifest(await blobs.get(Cid(digest)))
    except NotProvable as error:
        found = installed.find(kind)
        if not found.needs_engine:
            return found.describe(name)  # load_terms compares it with what the chain has
        raise ConfigError(f"the manifest of {name!r} is not in the blob store: {error.message}") from error


def _ignore(what: str, done: int, total: int) -> None:
    pass


def _log_refused(operation: Operation, fault: Fault) -> None:
    _log.error("write_refused", write=operation.name, reason=fault.message)
