"""Puts a gateway process together from the settings: key, chain, database, kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

from steelyard.chain.fault_desk import ContractCourt
from steelyard.chain.sender import Sender
from steelyard.cli.chain_access import ChainAccess, open_chain
from steelyard.cli.invocation import Invocation
from steelyard.cli.settings import GatewaySection, X402Section
from steelyard.gateway.chain_reader import ChainPayments, ChainReader
from steelyard.gateway.network_quality import LedgerQuality
from steelyard.gateway.serve import GatewayParts
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.x402 import Payments, X402Terms
from steelyard.link.channel import TlsIdentity, load_tls
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import Manifest
from steelyard.services.port import Service
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import open_database


def gateway_settings(section: GatewaySection) -> GatewaySettings:
    """Return the gateway room's own settings from the section of the same name."""
    values = {field.name: getattr(section, field.name) for field in fields(GatewaySettings)}
    return GatewaySettings(**values | {"admin_key_ids": frozenset(section.admin_key_ids)})


@asynccontextmanager
async def open_gateway_parts(invocation: Invocation) -> AsyncIterator[GatewayParts]:
    """Give everything that `gateway.serve` needs, and close it afterwards.

    Raises:
        ConfigError: no deployment, no wallet, an unusable database or certificate.
    """
    section = invocation.settings.gateway
    installed = installed_services()

    def bind(manifest: Manifest) -> Service:
        return installed.find(manifest.kind)(manifest)

    async with open_chain(invocation) as chain:
        key = invocation.open_key(section.wallet, chain.deployment.chain_id)
        sender = Sender(chain.rpc, key)
        database = await open_database(invocation.settings.gateway_database)
        try:
            yield GatewayParts(
                settings=gateway_settings(section),
                key=key,
                deployment=chain.deployment,
                database=database,
                chain=ChainReader(chain.rpc, chain.deployment),
                bind_service=bind,
                link_tls=_link_tls(section),
                payments=_payments(section.x402, chain, sender),
                quality=LedgerQuality(chain.rpc, chain.deployment, FolderBlobs(invocation.settings.blobs_folder)),
                court=ContractCourt(chain.rpc, chain.deployment, Sender(chain.rpc, key)),
            )
        finally:
            await database.aclose()


def _payments(section: X402Section, chain: ChainAccess, sender: Sender) -> Payments | None:
    if not section.enabled:
        return None
    return Payments(
        terms=X402Terms(
            schemes=section.schemes, requests_per_minute=section.requests_per_minute, bench_s=section.bench_s
        ),
        chain=ChainPayments(chain.rpc, chain.deployment, sender),
        chain_id=chain.deployment.chain_id,
        token=chain.deployment.yard,
    )


def _link_tls(section: GatewaySection) -> TlsIdentity | None:
    if section.link_certificate is None:
        return None
    return load_tls(section.link_certificate, section.link_certificate_key)
