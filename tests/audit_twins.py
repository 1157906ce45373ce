"""The court's and the pot's part of the twin in audit_world.py: bonds, slashes, roots, claims, as events alone.

1. What a deed needs and lacks (an open bond, a final root, income) makes it do nothing.
2. Each matter has one bond; each root has one leaf.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

ZERO = b"\x00" * 20
PROVIDER = 1


class Host(Protocol):
    """What the twins need of the world."""

    wallets: defaultdict[bytes, int]
    stakes: defaultdict[tuple[bytes, int], int]
    unswept: defaultdict[bytes, int]
    lanes: dict[bytes, Any]

    def emit(self, contract: str, name: str, /, **values: Any) -> None:
        """Append one event to the running transaction."""

    def transfer(self, sender: bytes, to: bytes, value: int) -> None:
        """Move tokens."""

    def slash(self, account: bytes, amount: int, to: bytes) -> None:
        """Take a provider's stake away."""

    def sweep(self, account: bytes) -> None:
        """Pay out what an account was credited."""


class CourtTwin:
    """The court's money."""

    address = b"\xa4" * 20

    def __init__(self, world: Host) -> None:
        self.world = world
        self.bonds: dict[bytes, int] = {}
        self.matters = 0
        self.compensated: defaultdict[bytes, int] = defaultdict(int)

    def post_bond(self, payer: bytes, amount: int) -> None:
        """Open a matter, as far as the payer's wallet reaches."""
        amount = min(amount, self.world.wallets[payer])
        if amount:
            self.matters += 1
            matter = self.matters.to_bytes(32, "big")
            self.bonds[matter] = amount
            self.world.emit("Court", "BondPosted", matter=matter, payer=payer, amount=amount)
            self.world.transfer(payer, self.address, amount)

    def release_bond(self, to: bytes, size: int) -> None:
        """Close the oldest matter: half to someone, half burned, or all of it."""
        if not self.bonds:
            return
        matter, amount = next(iter(self.bonds.items()))
        del self.bonds[matter]
        first = amount // 2 if size % 2 else amount
        for receiver, part in ((to, first), (ZERO, amount - first)):
            if part:
                self.world.emit("Court", "BondReleased", matter=matter, to=receiver, amount=part)
                self.world.transfer(self.address, receiver, part)

    def punish(self, account: bytes, amount: int, lane: bytes) -> None:
        """Slash a provider: a part to a lane's gateway, a tenth to an informer, the rest burned."""
        world, matter = self.world, b"\x0c" * 32
        taken = min(amount, world.stakes[account, PROVIDER])
        if taken == 0:
            return
        to_harmed, informer = 0, b"\xb4" * 20
        if lane:
            twin = world.lanes[lane]
            to_harmed = min(taken // 2, twin.paid - self.compensated[lane])
            self.compensated[lane] += to_harmed
            gateway = twin.state.lane.gateway
            if to_harmed:
                world.emit("Court", "Compensated", matter=matter, lane=lane, gateway=gateway, amount=to_harmed)
                world.slash(account, to_harmed, gateway)
        to_informer = taken // 10
        world.slash(account, to_informer, informer)
        world.slash(account, taken - to_harmed - to_informer, ZERO)
        world.emit("Court", "Punished", matter=matter, account=account, role=PROVIDER, taken=taken,
                   toHarmed=to_harmed, informer=informer, toInformer=to_informer)  # fmt: skip


class PotTwin:
    """The pot of rewards; an epoch is over with each proposal."""

    address = b"\xa5" * 20
    bond = 7

    def __init__(self, world: Host) -> None:
        self.world = world
        self.epoch = self.paid = self.burned = self.bonds = self.last_final = 0
        self.proposals: list[dict[str, Any]] = [{"total": 0, "purse": 0}]
        self.claimed: defaultdict[bytes, int] = defaultdict(int)
        self.is_read = False

    @property
    def received(self) -> int:
        """What came in ever."""
        return self.world.wallets[self.address] - self.bonds + self.paid + self.burned

    def collect(self) -> None:
        """Sweep in, and keep the epoch's first reading."""
        self.world.sweep(self.address)
        if not self.is_read:
            self.is_read = True
            self.world.emit("Rewards", "Collected", epoch=self.epoch, received=self.received)

    def propose(self, proposer: bytes, size: int) -> None:
        """Propose a root for the epoch that ends now, of any total that is allowed."""
        if self.world.wallets[proposer] < self.bond:
            return
        covered, self.epoch, self.is_read = self.epoch, self.epoch + 1, False
        self.collect()
        least, most = self.proposals[self.last_final]["total"], self.received * 9 // 10
        total = least + size % (most - least + 1)
        number, base = len(self.proposals), self.last_final
        self.proposals.append({"total": total, "purse": 0, "base": base, "proposer": proposer, "state": 1})
        self.bonds += self.bond
        self.world.emit("Rewards", "Proposed", id=number, proposer=proposer, epoch=covered, base=base,
                        root=b"\x01" * 32, cid=b"\x02" * 32, total=total, readyAt=9)  # fmt: skip
        self.world.emit("Rewards", "BondPosted", matter=_matter(number), payer=proposer, amount=self.bond)
        self.world.transfer(proposer, self.address, self.bond)

    def settle(self) -> None:
        """Settle the oldest pending proposal: every third one is void."""
        number = next((number for number, one in enumerate(self.proposals) if one.get("state") == 1), 0)
        if not number:
            return
        found = self.proposals[number]
        found["state"] = 3 if number % 3 == 0 else 2 if found["base"] == self.last_final else 4
        if found["state"] == 2:
            found["purse"] = found["total"] - self.proposals[found["base"]]["total"]
            self.last_final = number
        self.bonds -= self.bond
        self.world.emit("Rewards", "Settled", id=number, state=found["state"])
        to = ZERO if found["state"] == 3 else found["proposer"]
        self.world.emit("Rewards", "BondReleased", matter=_matter(number), to=to, amount=self.bond)
        self.world.transfer(self.address, to, self.bond)

    def claim(self, account: bytes, size: int) -> None:
        """Claim a part of the newest root's purse."""
        purse = self.proposals[self.last_final]["purse"]
        amount = min(purse, 1 + size)
        if amount == 0:
            return
        self.proposals[self.last_final]["purse"] -= amount
        self.claimed[account] += amount
        self.paid += amount
        self.world.emit("Rewards", "Claimed", id=self.last_final, account=account, amount=amount,
                        cumulative=self.claimed[account])  # fmt: skip
        self.world.transfer(self.address, account, amount)

    def burn_rest(self) -> None:
        """Burn what is left of the tenth."""
        self.collect()
        amount = self.received // 10 - self.burned
        if amount:
            self.burned += amount
            self.world.emit("Rewards", "RestBurned", amount=amount)
            self.world.transfer(self.address, ZERO, amount)


def _matter(number: int) -> bytes:
    return number.to_bytes(32, "big")
