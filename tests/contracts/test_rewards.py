"""Rewards: what came in, roots and bonds, cases against them, purses, claims; each success beside its refusal."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contracts.court_world import FAIL, PASS
from tests.contracts.rewards_world import (
    BLOB,
    BOND,
    CHALLENGE_S,
    FINAL,
    LAPSED,
    PENDING,
    PURSE_S,
    TERMS,
    VOID,
    RewardRoom,
    create_rewards,
)
from tests.contracts.world import EPOCH_S, UNBOND_DELAY_S, YARD, ZERO_ADDRESS, World

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.rewards_blob import build_share_proof, shares_root


@pytest.fixture
def room(world: World) -> RewardRoom:
    """A pot into which 1,000 YARD of the protocol's cut came in the epoch that runs."""
    room = RewardRoom(world)
    room.earn(1_000 * YARD)
    return room


def some(room: RewardRoom, **parts: int) -> dict[bytes, int]:
    """Return shares by actors' names, in YARD."""
    return {room.account(name): amount * YARD for name, amount in parts.items()}


# --- what came in


def test_pot_collects_what_the_escrow_credited_and_nothing_else(room: RewardRoom) -> None:
    """Money counts once it is truly there; a gift counts too."""
    assert room.pot.call("receivedSoFar") == 0
    receipt = room.pot.send("collect", sender=room.account("anyone"))
    assert receipt.only("Swept")["amount"] == 1_000 * YARD
    assert receipt.only("Collected") == {"epoch": room.world.evm.now() // EPOCH_S, "received": 1_000 * YARD}
    room.endow("donor", 5)
    room.world.yard.send("transfer", room.pot.address, 5, sender=room.account("donor"))
    assert room.pot.call("receivedSoFar") == 1_000 * YARD + 5
    assert room.pot.call("capOf", room.epoch) == 0  # no reading after this epoch yet


def test_pot_reading_after_an_epoch_fixes_its_cap(room: RewardRoom) -> None:
    """What comes in after an epoch's first reading is not given back for that epoch, but for the next."""
    epoch = room.end_epoch()
    room.pot.send("collect", sender=room.account("anyone"))
    room.earn(500 * YARD)
    assert not room.pot.send("collect", sender=room.account("anyone")).all("Collected")
    assert room.pot.call("capOf", epoch) == 900 * YARD
    with room.pot.refuses(f"AboveCap({900 * YARD + 1},{900 * YARD})"):
        room.send_propose(some(room, provider=900), total=900 * YARD + 1)
    room.end_epoch()
    room.propose(some(room, provider=1_350))


def test_pot_deployed_with_bad_terms_refused(room: RewardRoom) -> None:
    """Times and bond are above zero, and a proposer's stake outlasts the challenge."""
    for index in range(3):
        with room.pot.refuses("ZeroTerm()"):
            create_rewards(room.world, tuple(0 if at == index else term for at, term in enumerate(TERMS)))  # type: ignore[arg-type]
    with room.pot.refuses(f"UnbondingTooShort({UNBOND_DELAY_S},{UNBOND_DELAY_S})"):
        create_rewards(room.world, (UNBOND_DELAY_S, PURSE_S, BOND))


# --- proposals


def test_proposal_is_told_with_its_bond_and_waits(room: RewardRoom) -> None:
    """Everything that a challenger needs is in the event; the bond is apart from what came in."""
    epoch = room.end_epoch()
    shares = some(room, provider=500, gateway=100)
    wallet = room.world.balance(room.account("validator 0"))
    receipt = room.send_propose(shares)
    ready_at = room.world.evm.now() + CHALLENGE_S
    assert receipt.only("Proposed") == {
        "id": 1,
        "proposer": room.account("validator 0"),
        "epoch": epoch,
        "base": 0,
        "root": shares_root(shares),
        "cid": BLOB,
        "total": 600 * YARD,
        "readyAt": ready_at,
    }
    told = {"matter": (1).to_bytes(32, "big"), "payer": room.account("validator 0"), "amount": BOND}
    assert receipt.only("BondPosted") == told
    assert room.world.balance(room.account("validator 0")) == wallet - BOND
    assert (room.pot.call("bonds"), room.held()) == (BOND, 1_000 * YARD + BOND)
    assert room.pot.call("receivedSoFar") == 1_000 * YARD
    assert room.proposal(1)["state"] == PENDING
    with room.pot.refuses(f"TooEarly({ready_at})"):
        room.settle(1)
    with room.pot.refuses(f"WrongState(1,{PENDING})"):
        room.claim(1, room.account("provider"))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"by": "provider"}, "NotActive"),
        ({"root": ZERO32}, "EmptyRoot()"),
        ({"cid": ZERO32}, "EmptyRoot()"),
        ({"total": 901 * YARD}, "AboveCap"),
    ],
)
def test_proposal_made_wrongly_refused(room: RewardRoom, change: dict[str, Any], refusal: str) -> None:
    """Only active validators propose, a root with its blob, at most nine tenths of what came in."""
    room.end_epoch()
    with room.pot.refuses(refusal):
        room.send_propose(some(room, provider=500), **change)


def test_proposal_for_an_epoch_that_is_not_over_refused(room: RewardRoom) -> None:
    """The running epoch's redemptions are not all there yet."""
    with room.pot.refuses("EpochNotOver"):
        room.send_propose(some(room, provider=1), epoch=room.epoch)


def test_proposal_without_the_bond_refused(room: RewardRoom) -> None:
    """The bond comes from the proposer's wallet."""
    room.end_epoch()
    validator = room.account("validator 0")
    room.world.yard.send("transfer", room.account("anyone"), room.world.balance(validator), sender=validator)
    with room.world.yard.refuses("ERC20InsufficientBalance"):
        room.send_propose(some(room, provider=1))


def test_proposal_unchallenged_becomes_final_and_frees_the_bond(room: RewardRoom) -> None:
    """After its time anyone settles it; its purse is what it adds."""
    room.end_epoch()
    wallet = room.world.balance(room.account("validator 0"))
    proposal = room.propose(some(room, provider=500))
    receipt = room.finish(proposal)
    assert receipt.only("Settled") == {"id": proposal, "state": FINAL}
    assert receipt.only("BondReleased")["to"] == room.account("validator 0")
    assert room.world.balance(room.account("validator 0")) == wallet
    assert (room.pot.call("lastFinal"), room.pot.call("bonds")) == (proposal, 0)
    assert room.proposal(proposal)["purse"] == 500 * YARD
    with room.pot.refuses(f"WrongState({proposal},{FINAL})"):
        room.settle(proposal)


def test_proposal_below_the_last_final_root_refused(room: RewardRoom) -> None:
    """Totals never fall, and no epoch is covered twice."""
    room.reward(some(room, provider=500))
    covered = room.proposal(1)["epoch"]
    with room.pot.refuses(f"StaleEpoch({covered},{covered})"):
        room.send_propose(some(room, provider=500), epoch=covered)
    room.end_epoch()
    with room.pot.refuses(f"LowerTotal({499 * YARD},{500 * YARD})"):
        room.send_propose(some(room, provider=499))
    room.propose(some(room, provider=500))  # an epoch that earned nothing


def test_proposals_on_one_base_lapse_when_another_is_final(room: RewardRoom) -> None:
    """Several may be pending, so that nobody holds the others up; one of them becomes final, the bonds go back."""
    room.end_epoch()
    first = room.propose(some(room, provider=500))
    second = room.propose(some(room, gateway=900), by="validator 1")
    room.finish(first)
    assert room.finish(second).only("Settled") == {"id": second, "state": LAPSED}
    assert room.proposal(second)["purse"] == 0
    assert (room.pot.call("lastFinal"), room.pot.call("bonds")) == (first, 0)
    with room.pot.refuses(f"WrongState({second},{LAPSED})"):
        room.claim(second, room.account("gateway"))


# --- cases


def test_proposal_in_dispute_waits_and_is_final_after_acquittal(room: RewardRoom) -> None:
    """While a case is open nothing is settled, however long it takes."""
    room.end_epoch()
    proposal = room.propose(some(room, provider=500))
    case_id = room.challenge(proposal)
    room.court.advance_to(room.proposal(proposal)["ready_at"])
    with room.pot.refuses(f"Disputed({proposal},1)"):
        room.settle(proposal)
    room.court.draw(case_id)
    room.court.vote(case_id, PASS)
    room.court.resolve(case_id)
    assert room.settle(proposal).only("Settled")["state"] == FINAL


def test_proposal_convicted_is_void_and_its_bond_burned(room: RewardRoom) -> None:
    """A wrong root pays nothing, costs its bond beside the slash, and blocks no other."""
    room.end_epoch()
    wrong = room.propose(some(room, gateway=900))
    case_id = room.challenge(wrong)
    right = room.propose(some(room, provider=500), by="validator 1")
    room.court.convict(case_id)
    room.finish(right)
    supply = room.world.yard.call("totalSupply")
    receipt = room.settle(wrong)
    assert receipt.only("Settled") == {"id": wrong, "state": VOID}
    assert receipt.only("BondReleased")["to"] == ZERO_ADDRESS
    assert room.world.yard.call("totalSupply") == supply - BOND
    with room.pot.refuses(f"WrongState({wrong},{VOID})"):
        room.claim(wrong, room.account("gateway"))
    assert room.pot.call("lastFinal") == right
    room.claim(right, room.account("provider"))


def test_proposal_convicted_before_it_was_made_is_not_void(room: RewardRoom) -> None:
    """A verdict on a number that nobody had proposed yet says nothing of what is proposed under it."""
    case_id = room.court.open("validator 0", kind=2, topic=(1).to_bytes(32, "big"))
    room.court.convict(case_id)
    proposal = room.propose(some(room, provider=500))
    assert room.finish(proposal).only("Settled")["state"] == FINAL


def test_proposal_whose_proposer_has_nothing_at_stake_lapses(room: RewardRoom) -> None:
    """Nobody can open a case against it, so it never becomes final."""
    room.end_epoch()
    proposal = room.propose(some(room, provider=500))
    slash = (room.account("validator 0"), 3, 10**18, ZERO_ADDRESS)
    room.world.registry.send("slash", *slash, sender=room.world.slasher)
    assert room.finish(proposal).only("Settled")["state"] == LAPSED


def test_proposal_of_a_lazy_panel_acquits_nobody_else(room: RewardRoom) -> None:
    """A case against one proposal holds up that one alone."""
    room.end_epoch()
    first = room.propose(some(room, provider=500))
    second = room.propose(some(room, provider=500))
    case_id = room.challenge(first)
    assert room.finish(second).only("Settled")["state"] == FINAL
    room.court.draw(case_id)
    room.court.vote(case_id, FAIL)
    with room.pot.refuses("Disputed"):
        room.settle(first)


# --- claims


def test_claim_pays_what_is_new_to_the_account_alone(room: RewardRoom) -> None:
    """Anyone may claim for anyone; cumulative amounts are paid once."""
    provider, gateway = room.account("provider"), room.account("gateway")
    first = room.reward(some(room, provider=500, gateway=100))
    receipt = room.claim(first, provider)
    assert receipt.only("Claimed") == {
        "id": first,
        "account": provider,
        "amount": 500 * YARD,
        "cumulative": 500 * YARD,
    }
    assert room.world.balance(provider) == 500 * YARD
    with room.pot.refuses(f"NothingDue(0x{provider.hex()},{500 * YARD},{100 * YARD})"):
        room.claim(first, provider)
    room.earn(1_000 * YARD)
    second = room.reward(some(room, provider=1_100, gateway=700))
    room.claim(second, provider)
    assert room.world.balance(provider) == 1_100 * YARD
    assert room.claim(first, gateway).only("Claimed")["amount"] == 100 * YARD
    assert room.claim(second, gateway).only("Claimed")["amount"] == 600 * YARD
    assert (room.pot.call("paid"), room.pot.call("claimedBy", gateway)) == (1_800 * YARD, 700 * YARD)
    assert room.held() == 200 * YARD


def test_claim_by_another_leaf_refused(room: RewardRoom) -> None:
    """Neither another amount, nor another account, nor an inner node passes for a leaf."""
    shares = some(room, provider=500, gateway=100, builder=200)
    root = room.reward(shares)
    with room.pot.refuses("WrongProof"):
        room.claim(root, room.account("provider"), 501 * YARD)
    proof = build_share_proof(shares, room.account("provider"))
    with room.pot.refuses("WrongProof"):
        args = (root, room.account("gateway"), 500 * YARD, proof)
        room.pot.send("claim", *args, sender=room.account("gateway"))
    with room.pot.refuses("WrongProof"):
        args = (root, room.account("provider"), 500 * YARD, proof[1:])
        room.pot.send("claim", *args, sender=room.account("gateway"))


def test_claim_of_the_pot_for_itself_refused(room: RewardRoom) -> None:
    """Paying itself would count as having come in again."""
    root = room.reward({room.pot.address: 500 * YARD})
    with room.pot.refuses("InvalidRecipient()"):
        room.claim(root, room.pot.address)


def test_claim_under_a_root_whose_leaves_exceed_its_total_stops_at_the_total(room: RewardRoom) -> None:
    """The contract sums no leaves: the purse bounds them."""
    room.end_epoch()
    root = room.propose(some(room, provider=500, gateway=700), total=600 * YARD)
    room.finish(root)
    assert room.claim(root, room.account("gateway")).only("Claimed")["amount"] == 600 * YARD
    with room.pot.refuses("NothingDue"):
        room.claim(root, room.account("provider"))


def test_claim_under_a_wrong_final_root_takes_nothing_that_was_promised_before(room: RewardRoom) -> None:
    """Should nobody have challenged it, it pays what it added, and the earlier root still pays all it said."""
    promised = room.reward(some(room, provider=500))
    room.earn(1_000 * YARD)
    wrong = room.reward(some(room, thief=1_800))
    assert room.claim(wrong, room.account("thief")).only("Claimed")["amount"] == 1_300 * YARD
    with room.pot.refuses("NothingDue"):
        room.claim(wrong, room.account("thief"))
    assert room.claim(promised, room.account("provider")).only("Claimed")["amount"] == 500 * YARD


def test_purse_left_unclaimed_goes_on_to_the_newest_root(room: RewardRoom) -> None:
    """Who comes late claims all of it under the newest root, with that blob alone."""
    provider = room.account("provider")
    first = room.reward(some(room, provider=500))
    room.earn(1_000 * YARD)
    second = room.reward(some(room, provider=600, gateway=100))
    assert room.claim(second, provider).only("Claimed")["amount"] == 200 * YARD  # as far as that purse reaches
    with room.pot.refuses("NothingDue"):
        room.claim(second, room.account("gateway"))
    ready_at = room.proposal(first)["final_at"] + PURSE_S
    with room.pot.refuses(f"TooEarly({ready_at})"):
        room.pot.send("roll", first, sender=room.account("anyone"))
    room.court.advance_to(ready_at)
    receipt = room.pot.send("roll", first, sender=room.account("anyone"))
    assert receipt.only("Rolled") == {"id": first, "to": second, "amount": 500 * YARD}
    assert room.claim(second, provider).only("Claimed")["amount"] == 400 * YARD
    assert room.claim(second, room.account("gateway")).only("Claimed")["amount"] == 100 * YARD


def test_purse_that_may_not_go_on_stays(room: RewardRoom) -> None:
    """The newest root's stays, an empty one has nothing, and what is not final has none."""
    first = room.reward(some(room, provider=500))
    room.world.evm.advance(PURSE_S)
    with room.pot.refuses(f"WrongState({first},{FINAL})"):
        room.pot.send("roll", first, sender=room.account("anyone"))
    with room.pot.refuses("WrongState(9,0)"):
        room.pot.send("roll", 9, sender=room.account("anyone"))
    room.claim(first, room.account("provider"))
    room.reward(some(room, provider=500))
    with room.pot.refuses("NothingLeft()"):
        room.pot.send("roll", first, sender=room.account("anyone"))


# --- the rest


def test_rest_is_a_tenth_and_burned_by_anyone(room: RewardRoom) -> None:
    """A tenth of what came in is burned, once; rewards are not touched."""
    supply = room.world.yard.call("totalSupply")
    receipt = room.pot.send("burnRest", sender=room.account("anyone"))
    assert receipt.only("RestBurned")["amount"] == 100 * YARD
    assert room.world.yard.call("totalSupply") == supply - 100 * YARD
    with room.pot.refuses("NothingLeft()"):
        room.pot.send("burnRest", sender=room.account("anyone"))
    assert room.pot.call("receivedSoFar") == 1_000 * YARD
    root = room.reward(some(room, provider=900))
    room.claim(root, room.account("provider"))
    assert room.held() == 0


def test_nobody_rules_the_pot(room: RewardRoom) -> None:
    """No function asks for a role, an owner or an upgrade: what there is is open to anyone, or to validators."""
    changing = {
        entry["name"]
        for entry in room.pot.interface.artifact.abi
        if entry["type"] == "function" and entry["stateMutability"] not in ("view", "pure")
    }
    assert changing == {"collect", "propose", "settle", "claim", "roll", "burnRest"}
