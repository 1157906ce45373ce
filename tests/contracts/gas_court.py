"""What the court's transactions cost: secrets, a case with its panel and its appeal.

Five validators, a panel of seven, an appeal of fifteen; a claim on one lane.
"""

from __future__ import annotations

from tests.contracts.court_world import FAIL, CourtRoom
from tests.contracts.world import EPOCH_S, TERMS, YARD, World

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
