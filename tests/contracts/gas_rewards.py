"""What the pot's transactions cost: a root over 1,000 accounts, with a proof of ten hashes."""

from __future__ import annotations

from tests.contracts.rewards_world import TERMS, RewardRoom
from tests.contracts.world import YARD, World

from steelyard.chain.artifacts import load_artifact
from steelyard.protocol.hashing import keccak
from steelyard.protocol.rewards_blob import Shares

Table = dict[str, int]
ACCOUNTS = 1_000


def shares(epochs: int) -> Shares:
    """Return what a thousand accounts earned in some epochs, half a YARD each."""
    return {keccak(number.to_bytes(2, "big"))[:20]: epochs * YARD // 2 for number in range(ACCOUNTS)}


def measure_rewards(world: World) -> Table:
    """Income, two roots, claims and the rest."""
    room = RewardRoom(world)
    table = {"deploy Rewards": world.creation_gas(load_artifact("Rewards"), world.court.address, *TERMS)}
    anyone = world.account("anyone")
    room.earn(2_000 * YARD)
    table["collect, sweeping"] = room.pot.send("collect", sender=anyone).gas_used
    room.end_epoch()
    first = room.send_propose(shares(1))
    table["propose, first"] = first.gas_used
    table["settle, final"] = room.finish(1).gas_used
    lucky = sorted(shares(1))[0]
    table["claim, 1,000 accounts, first"] = room.claim(1, lucky).gas_used
    room.earn(2_000 * YARD)
    room.end_epoch()
    table["propose"] = room.send_propose(shares(2)).gas_used
    room.finish(2)
    table["claim, 1,000 accounts"] = room.claim(2, lucky).gas_used
    table["burnRest"] = room.pot.send("burnRest", sender=anyone).gas_used
    room.court.advance_to(room.proposal(1)["final_at"] + TERMS[1])
    table["roll"] = room.pot.send("roll", 1, sender=anyone).gas_used
    return table
