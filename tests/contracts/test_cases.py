"""Cases: opened with a bond, judged, appealed, closed; who is paid what; each success beside its refusal."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contracts.court_world import (
    ABSTAIN,
    ACQUITTED,
    CHEAT,
    CLOSED,
    CONVICTED,
    DRAWING,
    EVIDENCE,
    FAIL,
    GUILTY,
    LAPSED,
    LAZY,
    PASS,
    STAKE,
    WRONG_ROOT,
    CourtRoom,
)
from tests.contracts.world import PROVIDER, TERMS, UNBOND_DELAY_S, VALIDATOR, YARD, ZERO_ADDRESS, World

from steelyard.protocol.hashing import ZERO32, keccak

SLASH = STAKE * TERMS.slash_bps // 10_000


@pytest.fixture
def room(world: World) -> CourtRoom:
    """A court with five validators, all committed to the running epoch."""
    return CourtRoom(world)


def split_votes(room: CourtRoom, case_id: int, guilty: int) -> dict[bytes, int]:
    """Return votes of which exactly `guilty` seats convict, if the panel can be split so."""
    votes, left = {}, guilty
    for juror, seats in room.panel(case_id).most_common():
        votes[juror] = FAIL if seats <= left else PASS
        left -= seats if seats <= left else 0
    assert left == 0, "no juror left with so few seats"
    return votes


def test_case_opened_is_told_and_holds_the_stake(room: CourtRoom) -> None:
    """The bond goes in, the stake can't leave."""
    room.pay("gateway", 3 * YARD)
    claims = room.claims(("gateway", 1, 3 * YARD))
    wallet = room.world.balance(room.world.account("challenger"))
    args = (CHEAT, room.world.account("provider"), room.service, EVIDENCE, claims)
    receipt = room.contract.send("open", *args, sender=room.world.account("challenger"))
    assert receipt.only("CaseOpened") == {
        "caseId": 1,
        "accused": room.world.account("provider"),
        "challenger": room.world.account("challenger"),
        "kind": CHEAT,
        "topic": room.service,
        "evidence": EVIDENCE,
        "since": 0,
        "epoch": room.epoch,
        "claims": tuple(claims),
    }
    told = {"matter": (1).to_bytes(32, "big"), "payer": room.world.account("challenger"), "amount": TERMS.bond_nano}
    assert receipt.only("BondPosted") == told
    assert room.world.balance(room.world.account("challenger")) == wallet - TERMS.bond_nano
    assert room.bonds() == TERMS.bond_nano
    assert room.is_locked()
    assert room.contract.call("harmsOf", 1) == ((room.lane(claims[0][0], 1), claims[0][0], 3 * YARD),)
    assert room.contract.call("standingOf", CHEAT, args[1], room.service) == (1, 0)


def test_case_held_stake_does_not_leave(room: CourtRoom) -> None:
    """Unbonding goes on, but nothing is paid out while a case is open."""
    provider = room.world.account("provider")
    room.world.registry.send("startUnbond", PROVIDER, STAKE, sender=provider)
    case_id = room.open()
    room.world.evm.advance(UNBOND_DELAY_S)
    with room.world.registry.refuses("StillLocked"):
        room.world.registry.send("finishUnbond", PROVIDER, sender=provider)
    for draws in (1, 2):  # nobody committed meanwhile: the case waits for secrets
        assert room.draw(case_id).only("CaseWaits")["draws"] == draws
    room.convict(case_id)
    receipt = room.world.registry.send("finishUnbond", PROVIDER, sender=provider)
    assert receipt.only("UnbondFinished")["amount"] == STAKE - SLASH


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"evidence": ZERO32}, "NoEvidence()"),
        ({"accused": "challenger"}, "SelfChallenge()"),
        ({"accused": "nobody"}, "NothingAtStake"),
        ({"accused": "provider", "kind": LAZY}, "NothingAtStake"),
        ({"challenger": "nobody"}, "ERC20InsufficientAllowance"),
        ({"kind": 3}, "0x"),
    ],
)
def test_case_opened_wrongly_refused(room: CourtRoom, change: dict[str, Any], refusal: str) -> None:
    """A case needs evidence, a stake of the right role, another's hand and a bond."""
    with room.contract.refuses(refusal):
        room.open(**{"accused": "provider", **change})


def test_case_claims_beyond_what_was_paid_refused(room: CourtRoom) -> None:
    """A gateway is harmed at most by what it paid on the lane."""
    room.pay("gateway", 3 * YARD)
    lane = room.lane(room.world.account("gateway"), 1)
    with room.contract.refuses(f"ClaimTooHigh(0x{lane.hex()},{3 * YARD + 1},{3 * YARD})"):
        room.open(claims=room.claims(("gateway", 1, 3 * YARD + 1)))
    with room.contract.refuses("ClaimTooHigh"):
        room.open(claims=room.claims(("other gateway", 1, 1)))
    with room.contract.refuses("ClaimTooHigh"):
        room.open(topic=keccak(b"another service"), claims=room.claims(("gateway", 1, 1)))


def test_case_claims_out_of_order_or_too_many_refused(room: CourtRoom) -> None:
    """Each lane stands once; a validator's case harmed no gateway."""
    room.pay("gateway", 3 * YARD)
    room.pay("gateway", 3 * YARD, lane_id=2)
    claims = room.claims(("gateway", 1, 1), ("gateway", 2, 1))
    for wrong in (claims[::-1], [claims[0], claims[0]]):
        with room.contract.refuses("UnsortedClaims"):
            room.open(claims=wrong)
    with room.contract.refuses("TooManyClaims(17)"):
        room.open(claims=[claims[0]] * 17)
    with room.contract.refuses("TooManyClaims(1)"):
        room.open("validator 0", kind=WRONG_ROOT, claims=claims[:1])


@pytest.mark.parametrize("guilty", [5, 7])
def test_panel_with_quorum_convicts(room: CourtRoom, guilty: int) -> None:
    """Five of seven seats convict; nothing is slashed before the time to appeal is over."""
    case_id = room.open()
    room.draw(case_id)
    room.vote(case_id, split_votes(room, case_id, guilty))
    told = room.resolve(case_id).only("CaseConvicted")
    until = room.world.evm.now() + TERMS.appeal_s
    assert told == {"caseId": case_id, "guilty": guilty, "innocent": 7 - guilty, "appealUntil": until}
    assert room.at_stake() == STAKE
    with room.contract.refuses(f"TooEarly({until})"):
        room.resolve(case_id)
    room.advance_to(until)
    receipt = room.resolve(case_id)
    assert receipt.only("CaseClosed") == {"caseId": case_id, "ruling": GUILTY}
    assert room.at_stake() == STAKE - SLASH
    assert not room.is_locked()
    assert room.bonds() == 0


@pytest.mark.parametrize("guilty", [0, 4])
def test_panel_below_quorum_acquits(room: CourtRoom, guilty: int) -> None:
    """Four of seven are not enough: half of the bond goes to the accused, half is burned."""
    case_id = room.open()
    room.draw(case_id)
    room.vote(case_id, split_votes(room, case_id, guilty))
    supply = room.world.yard.call("totalSupply")
    receipt = room.resolve(case_id)
    assert receipt.only("CaseClosed") == {"caseId": case_id, "ruling": ACQUITTED}
    half = TERMS.bond_nano // 2
    released = [(told["to"], told["amount"]) for told in receipt.all("BondReleased")]
    assert released == [(room.world.account("provider"), half), (ZERO_ADDRESS, TERMS.bond_nano - half)]
    assert room.world.balance(room.world.account("provider")) == half
    assert room.world.yard.call("totalSupply") == supply - (TERMS.bond_nano - half)
    assert (room.at_stake(), room.is_locked(), room.bonds()) == (STAKE, False, 0)


def test_panel_that_abstains_decides_nothing(room: CourtRoom) -> None:
    """Without a quorum or an acquittal the case is drawn anew, and lapses when that failed often enough."""
    case_id = room.open()
    for draws in range(1, TERMS.max_draws):
        room.draw(case_id)
        room.vote(case_id, ABSTAIN)
        assert room.resolve(case_id).only("CaseWaits")["draws"] == draws
        assert room.case(case_id)["phase"] == DRAWING
        assert room.is_locked()
    room.draw(case_id)
    room.vote(case_id, ABSTAIN)
    wallet = room.world.balance(room.world.account("challenger"))
    assert room.resolve(case_id).only("CaseClosed")["ruling"] == LAPSED
    assert room.world.balance(room.world.account("challenger")) == wallet + TERMS.bond_nano
    assert (room.at_stake(), room.is_locked(), room.bonds()) == (STAKE, False, 0)


def test_slash_is_divided_among_harmed_challenger_and_nobody(room: CourtRoom) -> None:
    """Gateways get back what they paid, the challenger a tenth of the slash, the rest is burned."""
    room.pay("gateway", 300 * YARD)
    room.pay("other gateway", 200 * YARD)
    claims = room.claims(("gateway", 1, 100 * YARD), ("other gateway", 1, 200 * YARD))
    case_id = room.open(claims=claims)
    supply, wallet = room.world.yard.call("totalSupply"), room.world.balance(room.world.account("challenger"))
    receipt = room.convict(case_id)
    assert receipt.only("Punished") == {
        "matter": case_id.to_bytes(32, "big"),
        "account": room.world.account("provider"),
        "role": PROVIDER,
        "taken": SLASH,
        "toHarmed": 300 * YARD,
        "informer": room.world.account("challenger"),
        "toInformer": SLASH // 10,
    }
    paid = {(told["gateway"], told["amount"]) for told in receipt.all("Compensated")}
    assert paid == {(gateway, amount) for gateway, _, amount in claims}
    assert sum(told["amount"] for told in receipt.all("Slashed")) == SLASH
    assert room.world.balance(room.world.account("gateway")) == 100 * YARD
    assert room.world.balance(room.world.account("other gateway")) == 200 * YARD
    assert room.world.balance(room.world.account("challenger")) == wallet + SLASH // 10 + TERMS.bond_nano
    assert room.world.yard.call("totalSupply") == supply - (SLASH - 300 * YARD - SLASH // 10)


def test_slash_gives_harmed_gateways_half_at_most(room: CourtRoom) -> None:
    """Where they paid more than that, each gets its part of the half."""
    room.pay("gateway", 9_000 * YARD)
    room.pay("other gateway", 3_000 * YARD)
    claims = room.claims(("gateway", 1, 9_000 * YARD), ("other gateway", 1, 3_000 * YARD))
    told = room.convict(room.open(claims=claims)).only("Punished")
    assert told["toHarmed"] == SLASH // 2
    assert room.world.balance(room.world.account("gateway")) == SLASH // 2 * 3 // 4
    assert room.world.balance(room.world.account("other gateway")) == SLASH // 2 // 4


def test_lane_compensated_once_is_not_compensated_again(room: CourtRoom) -> None:
    """What a gateway got back on a lane it can't claim in another case, be it open already."""
    room.pay("gateway", 100 * YARD)
    claims = room.claims(("gateway", 1, 100 * YARD))
    lane = room.lane(room.world.account("gateway"), 1)
    room.convict(room.open(claims=claims))
    assert room.contract.call("compensatedOn", lane) == 100 * YARD
    with room.contract.refuses(f"ClaimTooHigh(0x{lane.hex()},{100 * YARD},0)"):
        room.open(claims=claims)
    room.convict(room.open())
    assert room.world.balance(room.world.account("gateway")) == 100 * YARD


def test_second_conviction_for_the_same_time_slashes_nothing(room: CourtRoom) -> None:
    """Of two cases for what was done before, one slashes; a later one covers only what came after."""
    room.pay("gateway", 100 * YARD)
    claims = room.claims(("gateway", 1, 100 * YARD))
    first, second = room.open(claims=claims), room.open(claims=claims)
    opened_at = room.case(first)["opened_at"]
    room.draw(first)
    room.seat(second, room.members(second))
    for case_id in (first, second):
        for juror in room.panel(case_id):
            room.commit_vote(case_id, juror, FAIL)
    room.advance_to(room.contract.call("panelOf", second)[0])
    for case_id in (first, second):
        for juror in room.panel(case_id):
            room.reveal_vote(case_id, juror, FAIL)
        room.resolve(case_id)
    room.advance_to(room.case(second)["appeal_until"])
    room.resolve(first)
    assert room.is_locked(), "the other case still holds it"
    provider = room.world.account("provider")
    assert room.contract.call("standingOf", CHEAT, provider, room.service) == (1, opened_at)
    receipt = room.resolve(second)
    assert receipt.only("CaseClosed")["ruling"] == GUILTY
    assert not receipt.all("Slashed")
    assert (room.at_stake(), room.is_locked(), room.bonds()) == (STAKE - SLASH, False, 0)
    third = room.open()
    assert room.case(third)["since"] == opened_at
    room.convict(third)
    assert room.at_stake() == SLASH - SLASH // 2


def test_case_closed_frees_no_stake_that_another_holds(room: CourtRoom) -> None:
    """A friend's weak case, acquitted early, unlocks nothing."""
    weak, real = room.open(), room.open(topic=keccak(b"other"))
    room.draw(weak)
    room.vote(weak, PASS)
    room.resolve(weak)
    assert room.contract.call("holdsOn", room.world.account("provider"), PROVIDER) == 1
    assert room.is_locked()
    assert room.case(real)["phase"] == DRAWING


def test_appeal_upheld_slashes_and_burns_its_bond(room: CourtRoom) -> None:
    """Eleven of fifteen seats, drawn anew, uphold a conviction: it is slashed at once."""
    case_id = room.open()
    room.draw(case_id)
    first = room.contract.call("panelOf", case_id)[5]
    room.vote(case_id, FAIL)
    room.resolve(case_id)
    receipt = room.appeal(case_id)
    assert receipt.only("CaseAppealed") == {"caseId": case_id, "epoch": room.case(case_id)["epoch"]}
    assert receipt.only("BondPosted")["amount"] == TERMS.appeal_bond_nano
    room.draw(case_id)
    assert room.contract.call("panelOf", case_id)[5] > first
    assert sum(room.panel(case_id).values()) == 15
    room.vote(case_id, split_votes(room, case_id, 11))
    supply = room.world.yard.call("totalSupply")
    receipt = room.resolve(case_id)
    assert receipt.only("CaseClosed")["ruling"] == GUILTY
    released = [(told["to"], told["amount"]) for told in receipt.all("BondReleased")]
    challenger = room.world.account("challenger")
    assert released == [(challenger, TERMS.bond_nano), (ZERO_ADDRESS, TERMS.appeal_bond_nano)]
    assert room.world.yard.call("totalSupply") == supply - (SLASH - SLASH // 10) - TERMS.appeal_bond_nano
    assert (room.at_stake(), room.is_locked(), room.bonds()) == (STAKE - SLASH, False, 0)


def test_appeal_won_slashes_nothing_and_refunds(room: CourtRoom) -> None:
    """Ten of fifteen don't uphold: the bond comes back, with half of the challenger's."""
    case_id = room.open()
    room.draw(case_id)
    room.vote(case_id, FAIL)
    room.resolve(case_id)
    room.appeal(case_id)
    room.draw(case_id)
    room.vote(case_id, split_votes(room, case_id, 10))
    assert room.resolve(case_id).only("CaseClosed")["ruling"] == ACQUITTED
    assert room.world.balance(room.world.account("provider")) == TERMS.appeal_bond_nano + TERMS.bond_nano // 2
    assert (room.at_stake(), room.is_locked(), room.bonds()) == (STAKE, False, 0)


def test_appeal_without_a_decision_lapses(room: CourtRoom) -> None:
    """A conviction that no second panel upholds slashes nothing, and both get their bonds back."""
    case_id = room.open()
    room.draw(case_id)
    room.vote(case_id, FAIL)
    room.resolve(case_id)
    room.appeal(case_id)
    for _ in range(TERMS.max_draws):
        room.draw(case_id)
        room.vote(case_id, ABSTAIN)
        receipt = room.resolve(case_id)
    assert receipt.only("CaseClosed")["ruling"] == LAPSED
    assert room.world.balance(room.world.account("provider")) == TERMS.appeal_bond_nano
    assert room.world.balance(room.world.account("challenger")) == 1_000 * YARD
    assert (room.at_stake(), room.is_locked(), room.bonds()) == (STAKE, False, 0)


def test_appeal_by_another_or_too_late_refused(room: CourtRoom) -> None:
    """Only the convicted appeals, once, in time, with the bond."""
    case_id = room.open()
    with room.contract.refuses(f"WrongPhase({case_id},{DRAWING})"):
        room.contract.send("appeal", case_id, sender=room.world.account("provider"))
    room.draw(case_id)
    room.vote(case_id, FAIL)
    room.resolve(case_id)
    stranger = room.world.account("challenger")
    with room.contract.refuses(f"NotAccused(0x{stranger.hex()})"):
        room.contract.send("appeal", case_id, sender=stranger)
    with room.contract.refuses("ERC20InsufficientBalance"):
        room.contract.send("appeal", case_id, sender=room.world.account("provider"))
    until = room.case(case_id)["appeal_until"]
    room.world.fund(room.world.account("provider"), TERMS.appeal_bond_nano)
    room.advance_to(until)
    with room.contract.refuses(f"TooLate({until})"):
        room.contract.send("appeal", case_id, sender=room.world.account("provider"))
    assert room.case(case_id)["phase"] == CONVICTED


def test_case_resolved_before_or_after_its_time_refused(room: CourtRoom) -> None:
    """There is nothing to count before a panel sits, nor after the case is closed."""
    case_id = room.open()
    with room.contract.refuses(f"WrongPhase({case_id},{DRAWING})"):
        room.resolve(case_id)
    room.draw(case_id)
    with room.contract.refuses("TooEarly"):
        room.resolve(case_id)
    room.vote(case_id, PASS)
    room.resolve(case_id)
    with room.contract.refuses(f"WrongPhase({case_id},{CLOSED})"):
        room.resolve(case_id)
    with room.contract.refuses("WrongPhase(77,0)"):
        room.resolve(77)


@pytest.mark.parametrize("kind", [LAZY, WRONG_ROOT])
def test_validator_convicted_loses_its_own_stake(room: CourtRoom, kind: int) -> None:
    """Its stake as a validator is held and slashed, and its standing on the topic is told."""
    accused, topic = room.world.account("validator 0"), keccak(b"proposal")
    case_id = room.open("validator 0", kind=kind, topic=topic)
    assert room.contract.call("standingOf", kind, accused, topic) == (1, 0)
    assert room.is_locked("validator 0", VALIDATOR)
    opened_at = room.case(case_id)["opened_at"]
    room.convict(case_id)
    assert room.at_stake("validator 0", VALIDATOR) == STAKE - SLASH
    assert room.contract.call("standingOf", kind, accused, topic) == (0, opened_at)
    other = room.world.account("validator 1")
    assert room.contract.call("standingOf", kind, other, topic) == (0, 0)


def test_case_against_stake_that_grew_slashes_its_share(room: CourtRoom) -> None:
    """A share of all that is at stake is taken, from the unbonding part first."""
    provider = room.world.account("provider")
    room.world.registry.send("startUnbond", PROVIDER, STAKE // 4, sender=provider)
    case_id = room.open()
    room.convict(case_id)
    assert room.at_stake() == STAKE - SLASH
    assert room.world.registry.call("unbondingOf", provider, PROVIDER)[0] == 0
