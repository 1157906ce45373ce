"""A small twin of the contracts that hold YARD, which only emits events: histories for the audit's tests.

    world = World(seed)            # two gateways, two providers, two services, everybody funded
    world.act(7, 123)              # one random deed, valid by the contracts' rules
    world.finish()                 # at the end: one lane for certain has two redeemed batches of two calls
    world.entries, world.blobs     # what chain and blob store would hold

`world.answers(question)` is what the contracts would answer. Lanes, orders, receipts and batches are made by protocol
code and signed for real.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from typing import Any

from tests.audit_twins import CourtTwin, PotTwin

from steelyard.audit.books import Contracts, Entry
from steelyard.audit.views import Question
from steelyard.protocol.hashing import keccak
from steelyard.protocol.lanes import LaneState, SignedBatch, extend_lane
from steelyard.protocol.messages import Lane, Order, Receipt
from steelyard.protocol.pricing import call_cost, split_payment
from steelyard.protocol.signing import Domain, SigningKey

ZERO = b"\x00" * 20
DOMAIN = Domain(31415, b"\x07" * 32)
CONTRACTS = Contracts(
    yard=b"\xa1" * 20, registry=b"\xa2" * 20, escrow=b"\xa3" * 20, court=b"\xa4" * 20, rewards=b"\xa5" * 20
)
POT = CONTRACTS.rewards
DATA_POT, BUILDER, STRANGER = (bytes([n]) * 20 for n in (0xB2, 0xB3, 0xB4))
GATEWAYS = tuple(SigningKey(bytes([n]) * 32) for n in (1, 2))
PROVIDERS = tuple(SigningKey(bytes([n]) * 32) for n in (3, 4))
SERVICES = {b"\x51" * 32: (6667, 3333, 0, 0), b"\x52" * 32: (7001, 1499, 999, 501)}
PRICES = (1_000_003, 5_000_011)
GRADE = 1
YARD = 10**9

BlobContent = list[tuple[SignedBatch, list[tuple[Order, Receipt]]]]


@dataclass
class LaneWorld:
    """A lane as its provider knows it; `unredeemed` are the batches that no redemption covered yet."""

    state: LaneState
    unredeemed: BlobContent = field(default_factory=list)
    accepted: int = 0
    paid: int = 0


class World:
    """The contracts' state, and the history that led to it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.entries: list[Entry] = []
        self.blobs: dict[bytes, BlobContent] = {}
        self.block, self.tx = 1, b"\x00" * 32
        self.wallets: defaultdict[bytes, int] = defaultdict(int)
        self.stakes: defaultdict[tuple[bytes, int], int] = defaultdict(int)
        self.unbonding: defaultdict[tuple[bytes, int], int] = defaultdict(int)
        self.deposits: defaultdict[bytes, int] = defaultdict(int)
        self.owed: defaultdict[bytes, int] = defaultdict(int)
        self.announced: defaultdict[bytes, int] = defaultdict(int)
        self.unswept: defaultdict[bytes, int] = defaultdict(int)
        self.lanes: dict[bytes, LaneWorld] = {}
        self.court = CourtTwin(self)
        self.pot = PotTwin(self)
        self._begin()
        self.emit("Escrow", "ProtocolPotSet", pot=POT)
        for service, split in SERVICES.items():
            self.emit("Registry", "ServiceRegistered", serviceId=service, builder=BUILDER, dataPot=DATA_POT,
                      name=f"s{service[0]}", kind="echo", manifest=b"\x01" * 32, splitBps=split)  # fmt: skip
        for account in (*GATEWAYS, *PROVIDERS):
            self.transfer(ZERO, account.account, 1000 * YARD)
        for provider in PROVIDERS:
            self._stake(provider.account, 1, 100 * YARD)
            for service in SERVICES:
                self.emit("Registry", "OfferSet", provider=provider.account, serviceId=service, priceIn=PRICES[0],
                          priceOut=PRICES[1], grade=GRADE, manifest=b"\x01" * 32, seq=1)  # fmt: skip
        for gateway in GATEWAYS:
            self._stake(gateway.account, 2, 2 * YARD)
            self._deposit(gateway.account, 3 * YARD)

    def emit(self, contract: str, name: str, /, **values: Any) -> None:
        """Append one event to the running transaction."""
        self.entries.append(Entry(contract=contract, name=name, values=values, block=self.block, tx=self.tx))

    def act(self, deed: int, size: int) -> None:
        """Do one valid thing; what and how much follow from two numbers."""
        self._begin()
        gateway, provider = GATEWAYS[size % 2].account, PROVIDERS[size % 3 % 2].account
        key = sorted(self.lanes)[size % len(self.lanes)] if self.lanes else b""
        deeds = (
            lambda: self.serve(size % 4, 1 + size % 5),
            lambda: self.redeem([key]) if key else None,
            lambda: self.redeem(sorted(self.lanes)),
            lambda: self.sweep((provider, BUILDER, POT)[size % 3]),
            lambda: self._deposit(gateway, 1 + size % YARD),
            lambda: self._withdraw(gateway, size),
            lambda: self._unbond(gateway, 2, size),
            lambda: self._finish_unbond(gateway, 2),
            lambda: self.court.punish(provider, size % (3 * YARD), key),
            lambda: self.transfer(provider, CONTRACTS.escrow, min(size, self.wallets[provider])),
            lambda: self.transfer(provider, STRANGER, min(size, self.wallets[provider])),
            lambda: self.transfer(ZERO, STRANGER, size),
            lambda: self.court.post_bond(provider, 1 + size % YARD),
            lambda: self.court.release_bond((ZERO, STRANGER, provider)[size % 3], size),
            lambda: self.pot.collect(),
            lambda: self.pot.propose(provider, size),
            lambda: self.pot.settle(),
            lambda: self.pot.claim(STRANGER, size),
            lambda: self.pot.burn_rest(),
        )
        deeds[deed % len(deeds)]()

    def finish(self) -> LaneWorld:
        """Serve and redeem one lane twice more, sweep its provider, and return it."""
        self._begin()
        self._deposit(GATEWAYS[0].account, 50 * YARD)
        for _ in range(2):
            self._begin()
            lane = self.serve(0, 2)
            self.serve(0, 3)
            self.redeem([lane.state.lane.key])
        self._begin()
        self.sweep(lane.state.lane.provider)
        return lane

    def serve(self, which: int, calls: int, **changes: Any) -> LaneWorld:
        """Add a batch to one of four lanes; `changes` replace fields of its first order, consistently everywhere."""
        gateway, provider = GATEWAYS[which % 2], PROVIDERS[which // 2]
        lane = Lane(gateway.account, provider.account, sorted(SERVICES)[which % 2], 1000 + which)
        world = self.lanes.setdefault(lane.key, LaneWorld(LaneState(lane=lane)))
        done = []
        for index in range(calls):
            order = self._order(lane)
            if index == 0 and changes:
                order = build(order, **changes)
            done.append((order, self._receipt(order)))
        self.close_batch(world, done)
        return world

    def close_batch(self, world: LaneWorld, done: list[tuple[Order, Receipt]]) -> None:
        """Sign a batch of given calls as the lane's provider."""
        provider = next(key for key in PROVIDERS if key.account == world.state.lane.provider)
        ids, costs = [receipt.struct_hash() for _, receipt in done], [receipt.cost for _, receipt in done]
        world.state, signed = extend_lane(world.state, ids, costs, provider, DOMAIN)
        world.unredeemed.append((signed, done))

    def redeem(self, keys: list[bytes]) -> None:
        """Redeem what some lanes have served and publish one blob with it, as the first lane's provider."""
        content: BlobContent = []
        for key in keys:
            content += self.lanes[key].unredeemed
            self._redeem_lane(self.lanes[key])
        if content:
            blob = sha256(self.tx).digest()
            self.blobs[blob] = content
            self.emit("Escrow", "CallsPublished", publisher=self.lanes[keys[0]].state.lane.provider, blob=blob)

    def _redeem_lane(self, world: LaneWorld) -> None:
        lane, gateway = world.state.lane, world.state.lane.gateway
        cumulative = world.state.cumulative
        due = cumulative - world.paid
        if due == 0:
            return
        from_deposit = min(due, self.deposits[gateway])
        drawn = self._draw(lane, due - from_deposit)
        paid = from_deposit + drawn
        if paid == 0 and cumulative == world.accepted:
            return
        if world.accepted == 0:
            self.emit("Escrow", "LaneOpened", lane=lane.key, gateway=gateway, provider=lane.provider,
                      serviceId=lane.service_id, laneId=lane.lane_id)  # fmt: skip
        self.emit("Escrow", "LaneRedeemed", lane=lane.key, cumulative=cumulative, paid=paid, count=world.state.count,
                  head=world.state.head)  # fmt: skip
        self.deposits[gateway] -= from_deposit
        self.owed[gateway] += cumulative - world.accepted - paid
        world.accepted, world.paid = cumulative, world.paid + paid
        world.unredeemed = []
        payees = (lane.provider, BUILDER, DATA_POT, POT)
        for payee, share in zip(payees, split_payment(paid, SERVICES[lane.service_id]), strict=True):
            self.unswept[payee] += share

    def _draw(self, lane: Lane, wanted: int) -> int:
        taken = min(wanted, self.stakes[lane.gateway, 2] + self.unbonding[lane.gateway, 2])
        if taken == 0:
            return 0
        self._take(lane.gateway, 2, taken)
        self.emit("Registry", "Drawn", gateway=lane.gateway, drawer=CONTRACTS.escrow, amount=taken)
        self.transfer(CONTRACTS.registry, CONTRACTS.escrow, taken)
        self.emit("Escrow", "StakeDrawn", gateway=lane.gateway, lane=lane.key, amount=taken)
        return taken

    def sweep(self, account: bytes) -> None:
        """Pay out what an account was credited."""
        amount = self.unswept.pop(account, 0)
        if amount:
            self.emit("Escrow", "Swept", account=account, amount=amount)
            self.transfer(CONTRACTS.escrow, account, amount)

    def answers(self, question: Question) -> tuple[int, ...]:
        """Return what the contracts would say."""
        arguments: Any = question.arguments
        match question.function:
            case "totalSupply":
                return (sum(self.wallets.values()),)
            case "balanceOf":
                return (self.wallets[arguments[0]],)
            case "stakeOf":
                return (self.stakes[arguments],)
            case "unbondingOf":
                return (self.unbonding[arguments], 99)
            case "accountOf":
                return (self.deposits[arguments[0]], self.owed[arguments[0]], self.announced[arguments[0]], 0)
            case "unsweptOf":
                return (self.unswept[arguments[0]],)
            case "laneOf":
                return (self.lanes[arguments[0]].accepted, self.lanes[arguments[0]].paid)
            case "compensatedOn":
                return (self.court.compensated[arguments[0]],)
            case "claimedBy":
                return (self.pot.claimed[arguments[0]],)
            case "paid":
                return (self.pot.paid,)
            case "burned":
                return (self.pot.burned,)
            case "bonds":
                return (self.pot.bonds,)
            case "lastFinal":
                return (self.pot.last_final,)
        raise AssertionError(question)

    def _begin(self) -> None:
        self.block += 1
        self.tx = keccak(self.tx)

    def transfer(self, sender: bytes, to: bytes, value: int) -> None:
        """Move tokens; from or to zero mints or burns."""
        if sender != ZERO:
            self.wallets[sender] -= value
        if to != ZERO:
            self.wallets[to] += value
        self.emit("Yard", "Transfer", **{"from": sender, "to": to, "value": value})

    def _stake(self, account: bytes, role: int, amount: int) -> None:
        self.stakes[account, role] += amount
        self.emit("Registry", "Staked", account=account, role=role, payer=account, amount=amount)
        self.transfer(account, CONTRACTS.registry, amount)

    def _unbond(self, account: bytes, role: int, size: int) -> None:
        amount = size % (self.stakes[account, role] + 1)
        if amount:
            self.stakes[account, role] -= amount
            self.unbonding[account, role] += amount
            self.emit("Registry", "UnbondStarted", account=account, role=role, amount=amount, readyAt=9)

    def _finish_unbond(self, account: bytes, role: int) -> None:
        amount = self.unbonding.pop((account, role), 0)
        if amount:
            self.emit("Registry", "UnbondFinished", account=account, role=role, amount=amount)
            self.transfer(CONTRACTS.registry, account, amount)

    def _take(self, account: bytes, role: int, amount: int) -> None:
        first = min(amount, self.unbonding[account, role])
        self.unbonding[account, role] -= first
        self.stakes[account, role] -= amount - first

    def slash(self, account: bytes, amount: int, to: bytes) -> None:
        """Take a provider's stake away, to someone or (zero) nobody."""
        if amount:
            self._take(account, 1, amount)
            self.emit("Registry", "Slashed", account=account, role=1, amount=amount, to=to)
            self.transfer(CONTRACTS.registry, to, amount)

    def _deposit(self, gateway: bytes, amount: int) -> None:
        amount = min(amount, self.wallets[gateway])
        if amount:
            self.deposits[gateway] += amount
            self.emit("Escrow", "Deposited", gateway=gateway, payer=gateway, amount=amount)
            self.transfer(gateway, CONTRACTS.escrow, amount)

    def _withdraw(self, gateway: bytes, size: int) -> None:
        amount = size % (self.deposits[gateway] + 1)
        if amount == 0 or self.owed[gateway]:
            return
        self.emit("Escrow", "WithdrawalAnnounced", gateway=gateway, amount=amount, readyAt=5)
        self.deposits[gateway] -= amount
        self.emit("Escrow", "Withdrawn", gateway=gateway, amount=amount)
        self.transfer(CONTRACTS.escrow, gateway, amount)

    def _order(self, lane: Lane) -> Order:
        return Order(
            call_id=self.random.randbytes(16), gateway=lane.gateway, provider=lane.provider,
            service_id=lane.service_id, lane_id=lane.lane_id, request_hash=self.random.randbytes(32),
            prefix_hash=b"\x00" * 32, sampler_seed=7, grade=GRADE, price_in=PRICES[0], price_out=PRICES[1],
            max_cost=YARD, deadline_ms=1,
        )  # fmt: skip

    def _receipt(self, order: Order) -> Receipt:
        units_in, units_out = self.random.randrange(1, 4000), self.random.randrange(1, 9_000_000)
        cost = call_cost(units_in, units_out, order.price_in, order.price_out)
        return Receipt(
            order_hash=order.struct_hash(), part=0, response_hash=b"\x02" * 32, evidence_hash=b"\x00" * 32,
            units_in=units_in, units_out=units_out, cost=cost, started_ms=1, finished_ms=2, finish_reason=0,
        )  # fmt: skip


def build(message: Any, **changes: Any) -> Any:
    """Return a message or dataclass with some fields changed."""
    if hasattr(message, "__struct_fields__"):
        return type(message)(**{name: getattr(message, name) for name in message.__struct_fields__} | changes)
    return replace(message, **changes)
