"""What the court's transactions cost: secrets, a case with its panel and its appeal; contradictions and demands.

Five validators, a panel of seven, an appeal of fifteen; a claim on one lane. Evidence of three chunks; batches of two.
"""

from __future__ import annotations

from tests.contracts.court_world import FAIL, CourtRoom
from tests.contracts.proof_world import CHUNKS, ITEMS, Signer
from tests.contracts.test_faults import chain_of, two_receipts, vouchers_of
from tests.contracts.world import EPOCH_S, GATEWAY, PROVIDER, TERMS, YARD, World

from steelyard.protocol.hashing import ZERO32

Table = dict[str, int]


def measure_court(world: World) -> Table:
    """Secrets, and a case through panel, appeal and slash."""
    room = CourtRoom(world)
    anyone = world.account("anyone")
    room.pay("gateway", 3 * YARD)
    table = {"commitSecret": room.commit("validator 0", room.epoch + 1).gas_used}
    table["open, one claim"] = room.send_open(claims=room.claims(("gateway", 1, YARD))).gas_used
    epoch = room.epoch
    room.advance_to((epoch + 1) * EPOCH_S)
    table["revealSecret"] = room.reveal("validator 0", epoch).gas_used
    for name in room.validators[1:]:
        room.reveal(name, epoch)
    room.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
    table["tally 5"] = room.contract.send("tally", epoch, 5, sender=anyone).gas_used
    table["draw 7"] = room.seat(1, room.members(1)).gas_used
    jurors = list(room.panel(1))
    commits = [room.commit_vote(1, juror, FAIL).gas_used for juror in jurors]
    room.advance_to(room.contract.call("panelOf", 1)[0])
    reveals = [room.reveal_vote(1, juror, FAIL).gas_used for juror in jurors]
    table |= {"commitVote": commits[0], "revealVote": reveals[0]}
    table["resolve, convicted"] = room.resolve(1).gas_used
    table["appeal"] = room.appeal(1).gas_used
    table["draw 15"] = room.draw(1).gas_used
    room.vote(1, FAIL)
    table["resolve, appeal upheld, one harmed"] = room.resolve(1).gas_used
    return table


def measure_proofs(world: World) -> Table:
    """Each contradiction, and evidence demanded, served and withheld."""
    room, signer = CourtRoom(world, validators=0), Signer(world)
    gateway, provider = world.account("gateway"), world.account("provider")
    world.stake(gateway, GATEWAY, 1_000 * YARD)
    room.pay("gateway", 9 * YARD)
    world.fund(gateway, 9 * YARD)
    table: Table = {}
    for name, pair in (
        ("proveTwoReceipts", two_receipts(room)),
        ("proveTwoBatches", chain_of(room, seq=1)),
        ("proveTwoVouchers", vouchers_of(room, count=5)),
    ):
        table[name] = world.proofs.send(name, *pair, sender=world.account("informer")).gas_used
        world.stake(provider, PROVIDER, 1_000 * YARD)
    ids = []
    for part in (1, 2):
        given = signer.batched(room.service, [signer.receipt(part=part), signer.receipt(part=3)])
        sent = world.proofs.send("demandEvidence", given, ZERO32, ZERO32, sender=gateway)
        ids.append(sent.only("EvidenceDemanded")["id"])
        table.setdefault("demandEvidence", sent.gas_used)
    served = ("serveEvidence", ids[0], ITEMS, 0, CHUNKS)
    table["serveEvidence, 3 chunks"] = world.proofs.send(*served, sender=provider).gas_used
    world.evm.advance(TERMS.evidence_s)
    table["closeDemand, silent"] = world.proofs.send("closeDemand", ids[1], sender=provider).gas_used
    return table
