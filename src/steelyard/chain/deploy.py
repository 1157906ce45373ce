"""Making a deployment: eight contracts, their roles, the first supply; and checking one that somebody else made.

1. Order: AccessManager, Yard, Registry, Escrow, Ledger, Court (which makes Proofs), Rewards; roles in one transaction;
   Rewards becomes the escrow's protocol pot; supply; handover to `admin`.
2. A journal file, where given, lets a deployment that was killed half way go on instead of beginning anew.
3. No role reaches a deposit. Roles: 1 minter (Yard.mint), 2 slasher (Registry.lock, slash: the Court
   alone), 3 drawer (Registry.drawStake: the Escrow alone); all else that is restricted stays with the admin role 0.

Law: docs/spec/contracts.md, "Deployment" and "Roles".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steelyard.chain.abi import build_creation, load_abi
from steelyard.chain.artifacts import ContractName, load_artifact
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.journal import Journal
from steelyard.chain.keystore import DEVELOPMENT_CHAIN_IDS
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.records import parse_bytes
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.errors import ChainError, ConfigError
from steelyard.protocol.ids import format_hex

ADMIN, MINTER, SLASHER, DRAWER = 0, 1, 2, 3


async def deploy(
    sender: Sender,
    parameters: DeploymentParameters,
    *,
    journal: Path | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Deployment:
    """Deploy all contracts, wire their roles, mint the first supply, and return where they stand, verified.

    Args:
        sender: the deployer; pays the gas, and is admin or treasury where the parameters name none.
        journal: a file that remembers each step; removed by the caller once the deployment is saved.
        entropy: draws the deployment id.

    Raises:
        ConfigError: the journal is of other parameters. ChainError: the chain refused or is silent; run it again.
    """
    work = _Work(sender, parameters, await Journal.open(journal, sender, parameters, entropy))
    salt = work.journal.salt
    deployer = sender.account
    manager = await work.create("AccessManager", deployer)
    yard = await work.create("Yard", manager)
    delay, stakes = parameters.unbond_delay_s, list(parameters.min_stakes_nano)
    registry = await work.create("Registry", yard, manager, salt, delay, stakes)
    escrow = await work.create("Escrow", yard, registry, manager, salt, parameters.withdraw_delay_s, deployer)
    ledger = await work.create("Ledger", parameters.epoch_s)
    court = await work.create("Court", escrow, ledger, salt, parameters.court.as_tuple())
    proofs = (await Contract(sender.rpc, "Court", court).read("proofs"))[0]
    rewards = await work.create("Rewards", court, *parameters.rewards.as_tuple())
    await work.wire(manager, yard, registry, {SLASHER: court, DRAWER: escrow}, pot=rewards)
    chain_id = await sender.rpc.chain_id()
    deployment = Deployment(
        chain_id=chain_id,
        salt=salt,
        manager=manager,
        yard=yard,
        registry=registry,
        escrow=escrow,
        ledger=ledger,
        court=court,
        proofs=proofs,
        rewards=rewards,
        block=work.journal.block,
        epoch_s=parameters.epoch_s,
        withdraw_delay_s=parameters.withdraw_delay_s,
        unbond_delay_s=parameters.unbond_delay_s,
        is_development=chain_id in DEVELOPMENT_CHAIN_IDS,
    )
    await verify_deployment(sender.rpc, deployment)
    return deployment


async def verify_deployment(rpc: ChainRpc, deployment: Deployment) -> None:
    """Ask the chain whether the contracts of a deployment are ours, and point at each other.

    Raises:
        ConfigError: another chain, no or other code at an address, or contracts of another deployment; names which.
        ChainError: the chain is silent.
    """
    chain_id = await rpc.chain_id()
    if chain_id != deployment.chain_id:
        raise ConfigError(f"the deployment is on chain {deployment.chain_id}, the rpc serves chain {chain_id}")
    addresses: dict[ContractName, bytes] = {
        "AccessManager": deployment.manager,
        "Yard": deployment.yard,
        "Registry": deployment.registry,
        "Escrow": deployment.escrow,
        "Ledger": deployment.ledger,
        "Court": deployment.court,
        "Proofs": deployment.proofs,
        "Rewards": deployment.rewards,
    }
    codes = await rpc.batch_all([("eth_getCode", [format_hex(a), "latest"]) for a in addresses.values()])
    for (name, address), code in zip(addresses.items(), codes, strict=True):
        if not _is_ours(name, parse_bytes(code, "code")):
            state = "other code" if len(code) > 2 else "no contract"
            raise ConfigError(
                f"{state} stands at {name}'s address {format_hex(address)}: "
                "was the chain wiped, or does the deployment file belong to another version?"
            )
    await _verify_links(rpc, deployment)


async def _verify_links(rpc: ChainRpc, deployment: Deployment) -> None:
    registry = Contract(rpc, "Registry", deployment.registry)
    escrow = Contract(rpc, "Escrow", deployment.escrow)
    ledger = Contract(rpc, "Ledger", deployment.ledger)
    yard = Contract(rpc, "Yard", deployment.yard)
    court = Contract(rpc, "Court", deployment.court)
    rewards = Contract(rpc, "Rewards", deployment.rewards)
    functions = load_abi("Registry").functions
    draw, slash = functions["drawStake"].selector, functions["slash"].selector
    manager = Contract(rpc, "AccessManager", deployment.manager)
    found = {
        "Yard.authority": (await yard.read("authority"))[0] == deployment.manager,
        "Ledger.epochSeconds": (await ledger.read("epochSeconds"))[0] == deployment.epoch_s,
        "the drawer role": (await manager.read("canCall", deployment.escrow, deployment.registry, draw))[0],
        "the slasher role": (await manager.read("canCall", deployment.court, deployment.registry, slash))[0],
        "Court.epochSeconds": (await court.read("epochSeconds"))[0] == deployment.epoch_s,
        "Court.proofs": (await court.read("proofs"))[0] == deployment.proofs,
        "Rewards.court": (await rewards.read("court"))[0] == deployment.court,
        "Court.escrow": (await court.read("escrow"))[0] == deployment.escrow,
        "Court.domainSeparator": (await court.read("domainSeparator"))[0] == deployment.domain.separator,
    }
    reads = [("authority", ()), ("yard", ()), ("domainSeparator", ())]
    for name, contract in (("Registry", registry), ("Escrow", escrow)):
        authority, token, separator = [values[0] for values in await contract.read_many(reads)]
        found[f"{name}.authority"] = authority == deployment.manager
        found[f"{name}.yard"] = token == deployment.yard
        found[f"{name}.domainSeparator"] = separator == deployment.domain.separator
    found["Escrow.registry"] = (await escrow.read("registry"))[0] == deployment.registry
    found["Escrow.withdrawDelay"] = (await escrow.read("withdrawDelay"))[0] == deployment.withdraw_delay_s
    found["Registry.unbondDelay"] = (await registry.read("unbondDelay"))[0] == deployment.unbond_delay_s
    wrong = [what for what, is_right in found.items() if not is_right]
    if wrong:
        raise ConfigError(f"the contracts do not belong to this deployment: {', '.join(wrong)} differ")


def _is_ours(name: ContractName, code: bytes) -> bool:
    """Whether code is a contract of ours; where the build holds zero bytes an immutable may stand."""
    built = load_artifact(name).deployed_bytecode
    return len(code) == len(built) and all(b in (0, c) for b, c in zip(built, code, strict=True))


class _Work:
    def __init__(self, sender: Sender, parameters: DeploymentParameters, journal: Journal) -> None:
        self.sender = sender
        self.parameters = parameters
        self.journal = journal

    async def create(self, name: ContractName, *arguments: Any) -> bytes:
        known = self.journal.addresses.get(name)
        if known is not None and _is_ours(name, await self.sender.rpc.code(known)):
            return known
        receipt = await self.sender.send(None, build_creation(name, *arguments), what=f"the creation of {name}")
        if receipt.contract is None:
            raise ChainError(f"the chain's receipt for {name} names no contract", code="rpc_malformed")
        self.journal.record(name, receipt.contract)
        return receipt.contract

    async def wire(
        self, manager_address: bytes, yard_address: bytes, registry: bytes, holders: dict[int, bytes], *, pot: bytes
    ) -> None:
        """Give roles to those who have them (`holders`: the registry's, by role), and the escrow its protocol pot."""
        manager = Contract(self.sender.rpc, "AccessManager", manager_address)
        yard = Contract(self.sender.rpc, "Yard", yard_address)
        deployer = self.sender.account
        if not (await manager.read("hasRole", ADMIN, deployer))[0]:
            return  # handed over by an earlier run: all of it is done
        admin = self.parameters.admin or deployer
        stakes = load_abi("Registry").functions
        mint = yard.abi.functions["mint"].selector
        calls: list[tuple[Any, ...]] = [
            ("setTargetFunctionRole", yard_address, [mint], MINTER),
            ("setTargetFunctionRole", registry, [stakes["lock"].selector, stakes["slash"].selector], SLASHER),
            ("setTargetFunctionRole", registry, [stakes["drawStake"].selector], DRAWER),
            ("labelRole", MINTER, "minter"),
            ("labelRole", SLASHER, "slasher"),
            ("labelRole", DRAWER, "drawer"),
            *[("grantRole", role, caller, 0) for role, caller in holders.items()],
            ("grantRole", MINTER, deployer, 0),
        ]
        await self._manage(manager, calls)
        escrow = Contract(self.sender.rpc, "Escrow", holders[DRAWER])
        if (await escrow.read("protocolPot"))[0] != pot:
            await escrow.send(self.sender, "setProtocolPot", pot)
        supply = self.parameters.initial_supply_nano
        if supply and (await yard.read("totalSupply"))[0] == 0:
            await yard.send(self.sender, "mint", self.parameters.treasury or deployer, supply)
        if admin != deployer:
            handover: list[tuple[Any, ...]] = [
                ("grantRole", ADMIN, admin, 0),
                ("grantRole", MINTER, admin, 0),
                ("revokeRole", MINTER, deployer),
                ("renounceRole", ADMIN, deployer),
            ]
            await self._manage(manager, handover)

    async def _manage(self, manager: Contract, calls: list[tuple[Any, ...]]) -> None:
        await manager.send(self.sender, "multicall", [manager.encode(name, *rest) for name, *rest in calls])
