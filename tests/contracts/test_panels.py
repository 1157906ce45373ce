"""Panels: the draw is what the page says, votes are committed and revealed once; each success beside its refusal."""

from __future__ import annotations

import pytest
from tests.contracts.court_world import (
    ABSTAIN,
    CHEAT,
    CLOSED,
    DRAWING,
    FAIL,
    LAZY,
    PASS,
    VOTING,
    CourtRoom,
)
from tests.contracts.world import EPOCH_S, TERMS, VALIDATOR, World

from steelyard.protocol.hashing import ZERO32, keccak, word
from steelyard.verification.panel import draw_panel


@pytest.fixture
def room(world: World) -> CourtRoom:
    """A court with five validators, all committed to the running epoch."""
    return CourtRoom(world)


def test_draw_of_tickets_is_told_and_seats_all(room: CourtRoom) -> None:
    """Seven seats, each to whom its ticket fell on; several seats for one count as many."""
    case_id = room.open()
    epoch = room.case(case_id)["epoch"]
    revealers = room.finish_epoch(epoch)
    members = draw_panel(case_id, revealers, 7)
    told = room.seat(case_id, members).only("PanelDrawn")
    now = room.world.evm.now()
    mix = room.contract.call("roundOf", epoch)[3]
    assert told == {
        "caseId": case_id,
        "epoch": epoch,
        "seed": keccak(word(case_id) + mix),
        "members": tuple(members),
        "commitUntil": now + TERMS.commit_s,
        "revealUntil": now + TERMS.commit_s + TERMS.vote_s,
    }
    panel = room.panel(case_id)
    assert sorted(panel.elements()) == sorted(members)
    assert len(room.contract.call("jurorsOf", case_id)) == len(panel)
    assert room.case(case_id)["phase"] == VOTING


def test_draw_with_another_member_refused(room: CourtRoom) -> None:
    """Whoever draws has no choice: any other name in any seat is refused."""
    case_id = room.open()
    room.finish_epoch(room.case(case_id)["epoch"])
    members = room.members(case_id)
    for seat in range(7):
        for name in (*room.validators, "nobody"):
            account = room.world.account(name)
            if account != members[seat]:
                with room.contract.refuses(f"WrongMember(0x{account.hex()},{seat})"):
                    room.seat(case_id, [*members[:seat], account, *members[seat + 1 :]])
    room.seat(case_id, members)


@pytest.mark.parametrize("size", [0, 6, 8])
def test_draw_of_other_size_refused(room: CourtRoom, size: int) -> None:
    """A panel has seven seats, an appeal's fifteen."""
    case_id = room.open()
    room.finish_epoch(room.case(case_id)["epoch"])
    members = (room.members(case_id) * 2)[:size]
    with room.contract.refuses(f"WrongPanelSize(7,{size})"):
        room.seat(case_id, members)


def test_draw_before_reveals_are_over_refused(room: CourtRoom) -> None:
    """Nobody is seated while secrets may still come, nor before they are tallied."""
    case_id = room.open()
    epoch = room.case(case_id)["epoch"]
    room.advance_to((epoch + 1) * EPOCH_S)
    with room.contract.refuses(f"TooEarly({(epoch + 1) * EPOCH_S + TERMS.reveal_s})"):
        room.seat(case_id, [])
    room.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
    with room.contract.refuses(f"NotTallied({epoch},5)"):
        room.seat(case_id, [])


def test_draw_twice_refused(room: CourtRoom) -> None:
    """A seated panel stays."""
    case_id = room.open()
    room.draw(case_id)
    with room.contract.refuses(f"WrongPhase({case_id},{VOTING})"):
        room.seat(case_id, room.members(case_id))
    with room.contract.refuses("WrongPhase(9,0)"):
        room.seat(9, [])


@pytest.mark.parametrize(("accused", "challenger"), [(0, 4), (4, 0), (2, None), (None, 3), (1, 2)])
def test_draw_leaves_out_accused_and_challenger(world: World, accused: int | None, challenger: int | None) -> None:
    """Neither ever sits, whatever its stake; the tickets fall on the others as if it had none."""
    room = CourtRoom(world)
    parties = {"accused": "provider", "challenger": "challenger"}
    for role, number in (("accused", accused), ("challenger", challenger)):
        if number is not None:
            parties[role] = f"validator {number}"
            world.fund(world.account(parties[role]), TERMS.bond_nano)
    kind = CHEAT if accused is None else LAZY
    case_id = room.open(parties["accused"], kind=kind, challenger=parties["challenger"])
    room.draw(case_id)
    barred = {world.account(name) for name in parties.values()}
    assert barred.isdisjoint(room.panel(case_id))
    assert sum(room.panel(case_id).values()) == 7


def test_draw_from_too_few_validators_waits(room: CourtRoom) -> None:
    """The case waits for a later epoch's secrets, and the stake stays held."""
    case_id = room.open()
    room.finish_epoch(room.case(case_id)["epoch"], silent=room.validators[2:])
    told = room.seat(case_id, []).only("CaseWaits")
    assert told == {"caseId": case_id, "epoch": room.epoch, "draws": 1}
    assert room.case(case_id)["phase"] == DRAWING
    assert room.is_locked()
    room.draw(case_id)
    assert room.case(case_id)["phase"] == VOTING


def test_draw_barring_parties_counts_the_rest(world: World) -> None:
    """Three validators of whom one is accused are too few."""
    room = CourtRoom(world, validators=3)
    case_id = room.open("validator 0", kind=LAZY)
    assert len(room.finish_epoch(room.case(case_id)["epoch"])) == TERMS.min_validators == 3
    assert room.seat(case_id, []).only("CaseWaits")["draws"] == 1


def test_vote_committed_and_revealed_is_told(room: CourtRoom) -> None:
    """A juror's vote counts for all of its seats."""
    case_id = room.open()
    room.draw(case_id)
    epoch = room.contract.call("panelOf", case_id)[5]
    juror, seats = room.panel(case_id).most_common(1)[0]
    assert seats > 1
    told = room.commit_vote(case_id, juror, FAIL).only("VoteCommitted")
    assert (told["caseId"], told["epoch"], told["juror"]) == (case_id, epoch, juror)
    room.advance_to(room.contract.call("panelOf", case_id)[0])
    receipt = room.reveal_vote(case_id, juror, FAIL)
    told = {"caseId": case_id, "epoch": epoch, "juror": juror, "vote": FAIL, "seats": seats}
    assert receipt.only("VoteRevealed") == told
    assert room.contract.call("panelOf", case_id)[2:5] == (seats, 0, seats)


def test_vote_without_a_seat_refused(room: CourtRoom) -> None:
    """The challenger, the accused and a validator that was not drawn have no vote."""
    case_id = room.open()
    room.draw(case_id)
    absent = [room.world.account(name) for name in (*room.validators, "provider", "challenger")]
    for account in set(absent) - set(room.panel(case_id)):
        refusal = f"NotDrawn({case_id},0x{account.hex()})"
        with room.contract.refuses(refusal):
            room.commit_vote(case_id, account, FAIL)
        with room.contract.refuses(refusal):
            room.reveal_vote(case_id, account, FAIL)


def test_vote_twice_refused(room: CourtRoom) -> None:
    """The first commitment stays, and it is counted once."""
    case_id = room.open()
    room.draw(case_id)
    juror = next(iter(room.panel(case_id)))
    room.commit_vote(case_id, juror, FAIL)
    with room.contract.refuses(f"AlreadyVoted({case_id},0x{juror.hex()})"):
        room.commit_vote(case_id, juror, PASS)
    room.advance_to(room.contract.call("panelOf", case_id)[0])
    room.reveal_vote(case_id, juror, FAIL)
    with room.contract.refuses(f"NothingToCount({case_id},0x{juror.hex()})"):
        room.reveal_vote(case_id, juror, FAIL)


def test_vote_outside_its_time_refused(room: CourtRoom) -> None:
    """Commitments end before the first vote is shown, and votes end too."""
    case_id = room.open()
    room.draw(case_id)
    commit_until, reveal_until = room.contract.call("panelOf", case_id)[:2]
    one, other = list(room.panel(case_id))[:2]
    room.commit_vote(case_id, one, FAIL)
    with room.contract.refuses(f"TooEarly({commit_until})"):
        room.reveal_vote(case_id, one, FAIL)
    room.advance_to(commit_until)
    with room.contract.refuses(f"TooLate({commit_until})"):
        room.commit_vote(case_id, other, FAIL)
    room.advance_to(reveal_until)
    with room.contract.refuses(f"TooLate({reveal_until})"):
        room.reveal_vote(case_id, one, FAIL)


def test_vote_other_than_committed_refused(room: CourtRoom) -> None:
    """Another vote or another salt is not what was committed; a vote that doesn't exist is none."""
    case_id = room.open()
    room.draw(case_id)
    juror = next(iter(room.panel(case_id)))
    room.commit_vote(case_id, juror, FAIL)
    room.advance_to(room.contract.call("panelOf", case_id)[0])
    for vote in (PASS, ABSTAIN):
        with room.contract.refuses("WrongVote"):
            room.reveal_vote(case_id, juror, vote)
    with room.contract.refuses("WrongVote"):
        room.contract.send("revealVote", case_id, FAIL, ZERO32, sender=juror)
    with room.contract.refuses("0x"):
        room.contract.send("revealVote", case_id, 3, room.salt(juror), sender=juror)


def test_vote_copied_from_another_juror_refused(room: CourtRoom) -> None:
    """A commitment names its juror, so a copied one can't be opened."""
    case_id = room.open()
    room.draw(case_id)
    one, other = list(room.panel(case_id))[:2]
    copied = room.commit_vote(case_id, one, FAIL).only("VoteCommitted")["commitment"]
    room.contract.send("commitVote", case_id, copied, sender=other)
    room.advance_to(room.contract.call("panelOf", case_id)[0])
    room.reveal_vote(case_id, one, FAIL)
    with room.contract.refuses("WrongVote"):
        room.contract.send("revealVote", case_id, FAIL, room.salt(one), sender=other)


def test_seat_left_empty_is_fined_once(room: CourtRoom) -> None:
    """Who was drawn and does not vote loses the fine, once however many seats it had; who abstains loses nothing."""
    case_id = room.open()
    room.draw(case_id)
    panel = room.panel(case_id)
    (away, _), *rest = panel.most_common()
    names = {room.world.account(name): name for name in room.validators}
    before = {juror: room.at_stake(names[juror], VALIDATOR) for juror in panel}
    room.vote(case_id, {juror: ABSTAIN for juror, _ in rest})
    with room.contract.refuses("TooEarly"):
        room.resolve(case_id)
    room.advance_to(room.contract.call("panelOf", case_id)[1])
    receipt = room.resolve(case_id)
    assert receipt.only("Fined")["validator"] == away
    assert receipt.only("CaseWaits")["draws"] == 1
    lost = {juror: before[juror] - room.at_stake(names[juror], VALIDATOR) for juror in panel}
    assert lost == {juror: TERMS.fine_nano if juror == away else 0 for juror in panel}


def test_seat_of_an_earlier_panel_has_no_vote(room: CourtRoom) -> None:
    """When a case is drawn anew, old seats and old commitments are gone."""
    case_id = room.open()
    room.draw(case_id)
    first = room.panel(case_id)
    room.vote(case_id, ABSTAIN)
    room.resolve(case_id)
    room.draw(case_id)
    second = room.panel(case_id)
    for juror in set(first) - set(second):
        with room.contract.refuses("NotDrawn"):
            room.commit_vote(case_id, juror, FAIL)
    room.vote(case_id, FAIL)
    assert room.contract.call("panelOf", case_id)[2] == 7
    assert room.case(case_id)["phase"] != CLOSED
