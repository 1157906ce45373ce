"""The chain side of a development network: contracts, stakes, services, offers, deposits.

1. Every step asks the chain first and does only what is missing, so a start that was killed half way goes on.
2. All keys follow from a seed in the network's folder; their files are marked and work on no other chain.
3. Manifests are put into the blob store before the chain names them.

Law: docs/spec/contracts.md; docs/cli.md, "steelyard up".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steelyard.chain.deploy import deploy, verify_deployment
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.keystore import derive_development_key, save_keystore
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Offer
from steelyard.protocol.pricing import NANO_PER_YARD
from steelyard.protocol.signing import SigningKey
from steelyard.storage.blobs import BlobStore

FIXED_NAMES = ("deployer", "gateway", "builder", "data-pot", "me")
STAKE_NANO = 1_000 * NANO_PER_YARD
WALLET_NANO = 10_000 * NANO_PER_YARD
DEPOSIT_NANO = 1_000 * NANO_PER_YARD
SPLIT = Split(provider_bps=8500, builder_bps=700, data_bps=500, protocol_bps=300)

_GATEWAYS_FROM, _VALIDATORS_FROM = 1_000, 2_000
"""Numbers of their keys under the seed, so that more providers don't change them."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funds:
    """What the accounts of a network begin with, in nano."""

    wallet: int = WALLET_NANO
    gateway_stake: int = STAKE_NANO
    provider_stake: int = STAKE_NANO
    validator_stake: int = STAKE_NANO
    deposit: int = DEPOSIT_NANO


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """A service that every provider of the network offers; prices are nano per 1,000,000 units.

    `options` are the kind's own, as the nodes' settings give them.
    """

    name: str
    kind: str
    manifest: bytes
    grade: int
    price_in: int
    price_out: int
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accounts:
    """The development accounts of a network by name; providers are ``node-1``, ``node-2``, …, validators
    ``validator-1``, …; the first gateway is ``gateway``, the next ``gateway-2``.
    """

    keys: dict[str, SigningKey]

    def __getitem__(self, name: str) -> SigningKey:
        return self.keys[name]

    @property
    def providers(self) -> list[str]:
        """The names of the providers, in order."""
        return [name for name in self.keys if name.startswith("node-")]

    @property
    def gateways(self) -> list[str]:
        """The names of the gateways, in order."""
        return [name for name in self.keys if name.partition("-")[0] == "gateway"]

    @property
    def validators(self) -> list[str]:
        """The names of the validators, in order."""
        return [name for name in self.keys if name.startswith("validator-")]


def provider_names(count: int) -> list[str]:
    """Return ``node-1`` to ``node-count``."""
    return [f"node-{number}" for number in range(1, count + 1)]


def open_accounts(folder: Path, seed: bytes, providers: int, gateways: int = 1, validators: int = 0) -> Accounts:
    """Return the network's keys, each with its marked keystore file ``folder/NAME.json``."""
    numbered = dict(enumerate([*FIXED_NAMES, *provider_names(providers)]))
    numbered |= {_GATEWAYS_FROM + number: f"gateway-{number}" for number in range(2, gateways + 1)}
    numbered |= {_VALIDATORS_FROM + number: f"validator-{number}" for number in range(1, validators + 1)}
    keys = {}
    for index, name in numbered.items():
        keys[name] = derive_development_key(seed, index)
        path = folder / f"{name}.json"
        if not path.exists():
            save_keystore(path, keys[name], is_development=True)
    return Accounts(keys)


async def open_deployment(
    rpc: ChainRpc, accounts: Accounts, file: Path, parameters: DeploymentParameters
) -> Deployment:
    """Return the network's deployment: the one in the file if the chain has it, else a new one, saved there.

    Raises:
        ConfigError: the file is of another chain, or the chain was wiped under it.
    """
    if file.exists():
        deployment = Deployment.load(file)
        await verify_deployment(rpc, deployment)
        return deployment
    journal = file.with_suffix(".journal")
    deployment = await deploy(Sender(rpc, accounts["deployer"]), parameters, journal=journal)
    deployment.save(file)
    journal.unlink(missing_ok=True)
    return deployment


class Genesis:
    """Sets one deployment up for its first calls.

    Args:
        rpc, deployment: the chain. accounts: who takes part. funds: what they begin with. blobs: where manifests go.
        report: told of each step.
    """

    def __init__(
        self, rpc: ChainRpc, deployment: Deployment, accounts: Accounts, funds: Funds, blobs: BlobStore, report: Report
    ) -> None:
        self._deployment = deployment
        self._accounts = accounts
        self._funds = funds
        self._blobs = blobs
        self._report = report
        self._registry = RegistryClient(rpc, deployment)
        self._escrow = EscrowClient(rpc, deployment)
        self._yard = self._registry.yard
        self._senders = {name: Sender(rpc, key) for name, key in accounts.keys.items()}

    async def build(self, services: Sequence[ServicePlan], gateway_urls: Sequence[str]) -> None:
        """Fund, stake, deposit, register and offer whatever is missing; one URL for each gateway, in order."""
        self._report("funding accounts")
        await self._fund()
        self._report("staking, and depositing for the gateway")
        await asyncio.gather(
            *(self._join_gateway(*pair) for pair in zip(self._accounts.gateways, gateway_urls, strict=True)),
            *(self._stake(name, Role.PROVIDER) for name in self._accounts.providers),
            *(self._stake(name, Role.VALIDATOR) for name in self._accounts.validators),
        )
        self._report("registering services")
        for plan in services:
            await self._register(plan)
        self._report("posting offers")
        await asyncio.gather(*(self._offer_all(name, services) for name in self._accounts.providers))

    async def _fund(self) -> None:
        roles = dict.fromkeys(self._accounts.gateways, Role.GATEWAY) | {"me": Role.PROVIDER}
        roles |= dict.fromkeys(self._accounts.providers, Role.PROVIDER)
        roles |= dict.fromkeys(self._accounts.validators, Role.VALIDATOR)
        names = list(roles)
        accounts = [self._accounts[name].account for name in names]
        balances = await self._yard.fetch_balances(accounts)
        stakes = await asyncio.gather(
            *(self._registry.fetch_stake(account, role) for account, role in zip(accounts, roles.values(), strict=True))
        )
        poor = [
            account
            for account, balance, stake in zip(accounts, balances, stakes, strict=True)
            if balance + stake < self._funds.gateway_stake + self._funds.deposit
        ]
        await asyncio.gather(*(self._yard.transfer(self._senders["deployer"], a, self._funds.wallet) for a in poor))

    async def _stake(self, name: str, role: Role) -> None:
        wanted = {
            Role.GATEWAY: self._funds.gateway_stake,
            Role.PROVIDER: self._funds.provider_stake,
            Role.VALIDATOR: self._funds.validator_stake,
        }[role]
        held = await self._registry.fetch_stake(self._accounts[name].account, role)
        if held < wanted:
            await self._registry.stake(self._senders[name], role, wanted - held)

    async def _join_gateway(self, name: str, url: str) -> None:
        sender = self._senders[name]
        await self._stake(name, Role.GATEWAY)
        if await self._registry.fetch_gateway_url(sender.account) != url:
            await self._registry.set_gateway(sender, url)
        account = await self._escrow.fetch_account(sender.account)
        if account.deposit_nano < self._funds.deposit // 10:
            await self._escrow.deposit(sender, sender.account, self._funds.deposit)

    async def _register(self, plan: ServicePlan) -> None:
        cid = await self._blobs.put(plan.manifest)
        if await self._registry.fetch_service(service_id(plan.name)) is None:
            pot = self._accounts["data-pot"].account
            await self._registry.register_service(
                self._senders["builder"], plan.name, plan.kind, cid.digest, SPLIT, pot
            )

    async def _offer_all(self, name: str, services: Sequence[ServicePlan]) -> None:
        key, domain = self._accounts[name], self._deployment.domain
        for plan in services:
            standing = await self._registry.fetch_offer(key.account, service_id(plan.name))
            cid = await self._blobs.put(plan.manifest)
            if standing and standing.manifest == cid.digest:
                continue  # whatever its prices are by now: `offer set` may have changed them
            terms = (plan.price_in, plan.price_out, plan.grade, cid.digest)
            offer = Offer(key.account, service_id(plan.name), *terms, (standing.seq if standing else 0) + 1)
            signature = key.sign(domain.digest(offer.struct_hash()))
            await self._registry.set_offer(self._senders[name], offer, signature)
