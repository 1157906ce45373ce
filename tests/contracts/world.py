"""A whole deployment under test: the seven contracts, their roles, and who acts in it.

    def test_deposit_by_stranger_counts_for_gateway(world: World) -> None:
        gateway = world.actor("gateway")
        world.deposit(gateway.account, 5 * YARD)

1. Actors are keys derived from their names: addresses, signatures and gas are the same in every run, on every EVM.
2. Nothing here asserts; tests do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eth_abi import encode
from tests.contracts.contract import Contract, Interface, Receipt
from tests.contracts.evm import CHAIN_ID, Evm

from steelyard.chain.artifacts import Artifact, ContractName, load_artifact
from steelyard.chain.terms import CourtTerms
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.messages import Message, Offer, Voucher
from steelyard.protocol.signing import Domain, SigningKey, compact_signature

YARD = 10**9
ZERO_ADDRESS = b"\x00" * 20
MAX_UINT256 = 2**256 - 1
PROVIDER, GATEWAY, VALIDATOR = 1, 2, 3
MINTER, SLASHER, DRAWER = 1, 2, 3  # roles of the manager; 0 is its admin
SALT = keccak(b"steelyard tests")
WITHDRAW_DELAY_S = 86_400
UNBOND_DELAY_S = 7 * 86_400
EPOCH_S = 3_600
MIN_STAKES = (1_000 * YARD, 500 * YARD, 2_000 * YARD)
SPLIT = (8_000, 1_000, 500, 500)  # provider, builder, data pot, protocol
TERMS = CourtTerms(
    reveal_s=600,
    commit_s=600,
    vote_s=600,
    appeal_s=3_600,
    keep_s=7_200,
    evidence_s=3_600,
    max_draws=3,
    bond_nano=10 * YARD,
    appeal_bond_nano=20 * YARD,
    demand_bond_nano=YARD,
    fine_nano=5 * YARD,
)
ROLES: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("yard", ("mint",), MINTER),
    ("registry", ("lock", "slash"), SLASHER),
    ("registry", ("drawStake",), DRAWER),
)
SKIPS = (  # Escrow.Skip, by number
    "None",
    "BadSignature",
    "BadProvider",
    "UnknownService",
    "NoAccount",
    "LowerTotal",
    "NothingDue",
    "TooHigh",
    "NoFunds",
)

SignedVoucher = tuple[Any, ...]


class World:
    """One deployment on one EVM."""

    def __init__(self, evm: Evm) -> None:
        self.evm = evm
        self.domain = Domain(CHAIN_ID, SALT)
        self._actors: dict[str, SigningKey] = {}
        self._contracts: list[Contract] = []
        self.admin, self.minter, self.slasher = (self.account(name) for name in ("admin", "minter", "slasher"))
        self.protocol_pot = self.account("protocol pot")
        self.manager = self.create("AccessManager", self.admin)
        self.yard = self.create("Yard", self.manager.address)
        delays = (self.yard.address, self.manager.address, SALT, UNBOND_DELAY_S, MIN_STAKES)
        self.registry = self.create("Registry", *delays)
        parts = (self.yard.address, self.registry.address, self.manager.address, SALT)
        self.escrow = self.create("Escrow", *parts, WITHDRAW_DELAY_S, self.protocol_pot)
        self.ledger = self.create("Ledger", EPOCH_S)
        self.court = self.create("Court", self.escrow.address, self.ledger.address, SALT, TERMS.as_tuple())
        self.proofs = self.adopt("Proofs", self.court.call("proofs"))
        self._hand_out_roles()
        self._made = len(self._contracts)
        self._fresh = evm.snapshot()

    def reset(self) -> None:
        """Go back to the moment after deployment."""
        self.evm.revert(self._fresh)
        del self._contracts[self._made :]

    def create(self, name: ContractName, *args: Any) -> Contract:
        """Deploy an artefact; raises CallReverted."""
        interface = Interface(load_artifact(name))
        code = interface.artifact.bytecode + encode(interface.constructor, args)
        created = self.evm.send(self.admin, None, code).created
        assert created is not None
        contract = Contract(self.evm, interface, created, self._contracts)
        self._contracts.append(contract)
        return contract

    def adopt(self, name: ContractName, address: bytes) -> Contract:
        """Return a contract that another one made."""
        contract = Contract(self.evm, Interface(load_artifact(name)), address, self._contracts)
        self._contracts.append(contract)
        return contract

    def creation_gas(self, artifact: Artifact, *args: Any) -> int:
        """Return what deploying an artefact costs, whole."""
        code = artifact.bytecode + encode(Interface(artifact).constructor, args)
        return self.evm.send(self.admin, None, code).gas_used

    def actor(self, name: str) -> SigningKey:
        """Return the key that a name stands for."""
        if name not in self._actors:
            self._actors[name] = SigningKey(keccak(f"steelyard test actor {name}".encode()))
        return self._actors[name]

    def account(self, name: str) -> bytes:
        """Return a named actor's 20-byte account."""
        return self.actor(name).account

    def fund(self, account: bytes, amount: int) -> None:
        """Mint YARD to an account, and let Registry, Escrow and Court take from it."""
        self.yard.send("mint", account, amount, sender=self.minter)
        for spender in (self.registry, self.escrow, self.court):
            if self.yard.call("allowance", account, spender.address) == 0:
                self.yard.send("approve", spender.address, MAX_UINT256, sender=account)

    def stake(self, account: bytes, role: int, amount: int) -> Receipt:
        """Fund an account with just that much and stake it."""
        self.fund(account, amount)
        return self.registry.send("stake", role, amount, sender=account)

    def deposit(self, gateway: bytes, amount: int) -> Receipt:
        """Fund a gateway with just that much and deposit it."""
        self.fund(gateway, amount)
        return self.escrow.send("deposit", gateway, amount, sender=gateway)

    def register(
        self, name: str, split: Sequence[int] = SPLIT, builder: str = "builder", data_pot: str | None = "data pot"
    ) -> bytes:
        """Register an `echo` service and return its id."""
        pot = ZERO_ADDRESS if data_pot is None else self.account(data_pot)
        args = (name, "echo", keccak(b"manifest"), tuple(split), pot)
        self.registry.send("registerService", *args, sender=self.account(builder))
        return keccak(name.encode())

    def voucher(
        self, gateway: str, provider: str, service_id: bytes, cumulative: int, *, lane_id: int = 1, count: int = 1
    ) -> Voucher:
        """Return an unsigned voucher between two actors; its head follows from the total."""
        head = keccak(b"head" + cumulative.to_bytes(16, "big"))
        accounts = (self.account(gateway), self.account(provider))
        return Voucher(*accounts, service_id, lane_id, cumulative, count, head)

    def signed(self, message: Message, key: SigningKey) -> tuple[bytes, bytes]:
        """Return the compact signature (r, vs) of a message."""
        return compact_signature(key.sign(self.domain.digest(message.struct_hash())))

    def pay(
        self, gateway: str, provider: str, service_id: bytes, cumulative: int, *, lane_id: int = 1, count: int = 1
    ) -> SignedVoucher:
        """Return a voucher signed by its gateway, in the shape that `redeem` takes."""
        voucher = self.voucher(gateway, provider, service_id, cumulative, lane_id=lane_id, count=count)
        return (*fields(voucher), *self.signed(voucher, self.actor(gateway)))

    def redeem(
        self, vouchers: Iterable[SignedVoucher], *, blob: bytes = ZERO32, sender: bytes | None = None
    ) -> Receipt:
        """Redeem signed vouchers, as anyone unless a sender is told."""
        who = self.account("anyone") if sender is None else sender
        return self.escrow.send("redeem", list(vouchers), blob, sender=who)

    def set_offer(self, offer: Offer, key: SigningKey) -> Receipt:
        """Post an offer that `key` signed, as anyone."""
        return self.registry.send("setOffer", fields(offer), *self.signed(offer, key), sender=self.account("anyone"))

    def balance(self, account: bytes) -> int:
        """Return an account's wallet, in nano."""
        return int(self.yard.call("balanceOf", account))

    def unswept(self, account: bytes) -> int:
        """Return what the escrow holds for an account, in nano."""
        return int(self.escrow.call("unsweptOf", account))

    def _hand_out_roles(self) -> None:
        holders = {MINTER: self.minter, SLASHER: self.slasher, DRAWER: self.escrow.address}
        for attribute, functions, role in ROLES:
            contract: Contract = getattr(self, attribute)
            selectors = [contract.interface.selector(name) for name in functions]
            self.manager.send("setTargetFunctionRole", contract.address, selectors, role, sender=self.admin)
        for role, holder in (*holders.items(), (SLASHER, self.court.address)):
            self.manager.send("grantRole", role, holder, 0, sender=self.admin)


def fields(message: Message) -> tuple[Any, ...]:
    """Return a message's fields in the order of its type."""
    return tuple(getattr(message, name) for name in message.__struct_fields__)


def skips(receipt: Receipt) -> list[tuple[int, str]]:
    """Return (index, reason) of every voucher that a redemption skipped."""
    return [(event["index"], SKIPS[event["reason"]]) for event in receipt.all("VoucherSkipped")]
