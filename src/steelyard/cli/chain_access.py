"""The chain as commands use it: one deployment, one client, one wallet that signs.

1. The deployment file says which contracts; a wallet's key is opened only by commands that send.
2. Development keys work on a development chain of this machine and nowhere else (`chain.keystore`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.yard import YardClient
from steelyard.cli.invocation import Invocation
from steelyard.errors import Reverted
from steelyard.protocol.pricing import format_yard
from steelyard.protocol.signing import SigningKey


@dataclass(frozen=True, slots=True)
class ChainAccess:
    """An open client of one deployment, with the typed contracts over it."""

    rpc: ChainRpc
    deployment: Deployment
    yard: YardClient
    registry: RegistryClient
    escrow: EscrowClient


@dataclass(frozen=True, slots=True)
class Signer:
    """A wallet that can sign and send."""

    name: str
    key: SigningKey
    sender: Sender


@asynccontextmanager
async def open_chain(invocation: Invocation) -> AsyncIterator[ChainAccess]:
    """Give access to the deployment that the settings name; raises ConfigError where there is none."""
    settings = invocation.settings
    deployment = Deployment.load(settings.deployment_file)
    async with ChainRpc(settings.chain.rpc_urls, chain_id=deployment.chain_id) as rpc:
        yield ChainAccess(
            rpc,
            deployment,
            YardClient(rpc, deployment),
            RegistryClient(rpc, deployment),
            EscrowClient(rpc, deployment),
        )


def open_signer(invocation: Invocation, chain: ChainAccess, name: str) -> Signer:
    """Return a wallet that signs on this chain; asks for its passphrase where it has one."""
    key = invocation.open_key(name, chain.deployment.chain_id)
    return Signer(name, key, Sender(chain.rpc, key))


async def explain_refusal(error: Reverted, chain: ChainAccess, signer: Signer, role: Role) -> Reverted:
    """Return a contract's refusal; if it is for want of stake, with how much of it is missing in a role."""
    if not error.reason.startswith("NotActive("):
        return error
    least = await chain.registry.fetch_min_stake(role)
    held = await chain.registry.fetch_stake(signer.key.account, role)
    name = role.name.lower()
    words = f"{signer.name} has {format_yard(held)} YARD staked as {name}, the least is {format_yard(least)}"
    command = f"steelyard stake {name} {format_yard(least - held)} --wallet {signer.name}"
    return Reverted(f"{words}: run {command} first", reason=error.reason, data=error.data)
