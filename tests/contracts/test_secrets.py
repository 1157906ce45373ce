"""Secrets: committed before an epoch, revealed after it, tallied in order; each success beside its refusal."""

from __future__ import annotations

import pytest
from tests.contracts.court_world import STAKE, CourtRoom
from tests.contracts.world import EPOCH_S, MIN_STAKES, TERMS, VALIDATOR, YARD, World

from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.verification.panel import mix_secrets

REVEALED, FINED = 2, 3


@pytest.fixture
def room(world: World) -> CourtRoom:
    """A court with five validators, all committed to the running epoch."""
    return CourtRoom(world)


def test_secret_committed_and_revealed_is_told(room: CourtRoom) -> None:
    """The commitment stands before the epoch, the secret and its weight after it."""
    epoch, alice = room.epoch, room.world.account("validator 1")
    receipt = room.commit("validator 1", epoch + 1)
    commitment = keccak(room.secret("validator 1", epoch + 1))
    told = {"validator": alice, "epoch": epoch + 1, "commitment": commitment}
    assert receipt.only("SecretCommitted") == told
    room.advance_to((epoch + 1) * EPOCH_S)
    receipt = room.reveal("validator 1", epoch)
    secret, weight = room.secret("validator 1", epoch), STAKE + 100 * YARD
    told = {"validator": alice, "epoch": epoch, "secret": secret, "weight": weight}
    assert receipt.only("SecretRevealed") == told
    assert room.contract.call("secretOf", alice, epoch) == (secret, weight, 0, REVEALED)


@pytest.mark.parametrize("back", [0, 1, 100])
def test_secret_for_begun_epoch_refused(room: CourtRoom, back: int) -> None:
    """A secret chosen in its epoch could be chosen to suit."""
    epoch = room.epoch
    with room.contract.refuses(f"EpochBegun({epoch - back},{epoch})"):
        room.commit("validator 0", epoch - back)


def test_secret_by_account_without_stake_refused(room: CourtRoom) -> None:
    """Only an active validator commits."""
    nobody = room.world.account("nobody")
    with room.contract.refuses(f"NotActive(0x{nobody.hex()},{VALIDATOR})"):
        room.commit("nobody", room.epoch + 1)


def test_secret_committed_twice_refused(room: CourtRoom) -> None:
    """The first one stays."""
    epoch = room.epoch + 1
    room.commit("validator 0", epoch)
    account = room.world.account("validator 0")
    with room.contract.refuses(f"AlreadyCommitted(0x{account.hex()},{epoch})"):
        room.commit("validator 0", epoch)


def test_secret_revealed_too_early_refused(room: CourtRoom) -> None:
    """Up to the last second of the epoch it stays secret."""
    epoch = room.epoch
    room.advance_to((epoch + 1) * EPOCH_S - 1)
    with room.contract.refuses(f"TooEarly({(epoch + 1) * EPOCH_S})"):
        room.reveal("validator 0", epoch)
    room.reveal("validator 0", epoch)


def test_secret_revealed_too_late_refused(room: CourtRoom) -> None:
    """The last second counts, the next is too late."""
    epoch = room.epoch
    until = (epoch + 1) * EPOCH_S + TERMS.reveal_s
    room.advance_to(until - 1)
    room.reveal("validator 0", epoch)
    with room.contract.refuses(f"TooLate({until})"):
        room.reveal("validator 1", epoch)


def test_secret_other_than_committed_refused(room: CourtRoom) -> None:
    """One bit off is another secret."""
    epoch, account = room.epoch, room.world.account("validator 0")
    room.advance_to((epoch + 1) * EPOCH_S)
    secret = room.secret("validator 0", epoch)
    wrong = bytes([secret[0] ^ 1]) + secret[1:]
    with room.contract.refuses(f"WrongSecret(0x{keccak(secret).hex()})"):
        room.contract.send("revealSecret", epoch, wrong, sender=account)


def test_secret_never_committed_or_revealed_before_refused(room: CourtRoom) -> None:
    """There is one secret for an epoch, and it is revealed once."""
    epoch = room.epoch
    room.advance_to((epoch + 1) * EPOCH_S)
    room.reveal("validator 0", epoch)
    for name in ("validator 0", "nobody"):
        with room.contract.refuses(f"NothingToReveal(0x{room.world.account(name).hex()},{epoch})"):
            room.reveal(name, epoch)


def test_tally_in_parts_equals_tally_at_once(room: CourtRoom) -> None:
    """The mix and the cumulative weights go through the validators in the order of their commitments."""
    epoch, anyone = room.epoch, room.world.account("anyone")
    room.advance_to((epoch + 1) * EPOCH_S)
    for name in reversed(room.validators):
        room.reveal(name, epoch)
    until = (epoch + 1) * EPOCH_S + TERMS.reveal_s
    with room.contract.refuses(f"TooEarly({until})"):
        room.contract.send("tally", epoch, 9, sender=anyone)
    room.advance_to(until)
    assert not room.contract.send("tally", epoch, 2, sender=anyone).events
    assert not room.contract.send("tally", epoch, 0, sender=anyone).events
    told = room.contract.send("tally", epoch, 3, sender=anyone).only("RoundTallied")
    revealers = room.revealers(epoch)
    total, mix = sum(revealer.weight for revealer in revealers), mix_secrets(revealers)
    assert told == {"epoch": epoch, "seated": 5, "total": total, "mix": mix}
    assert room.contract.call("roundOf", epoch) == (total, 5, 5, mix)
    assert room.contract.call("committedFor", epoch) == tuple(revealer.account for revealer in revealers)
    ends = [room.contract.call("secretOf", revealer.account, epoch)[2] for revealer in revealers]
    assert ends == [sum(revealer.weight for revealer in revealers[: n + 1]) for n in range(5)]
    assert not room.contract.send("tally", epoch, 9, sender=anyone).events, "it is told once"


def test_tally_of_silent_validator_fines_it(room: CourtRoom) -> None:
    """A withheld secret costs the fine, burned, and the weight; and only once."""
    epoch, silent = room.epoch, room.world.account("validator 2")
    room.advance_to((epoch + 1) * EPOCH_S)
    for name in room.validators:
        if name != "validator 2":
            room.reveal(name, epoch)
    room.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
    before, supply = room.at_stake("validator 2", VALIDATOR), room.world.yard.call("totalSupply")
    receipt = room.contract.send("tally", epoch, 9, sender=room.world.account("anyone"))
    told = {"matter": epoch.to_bytes(32, "big"), "validator": silent, "amount": TERMS.fine_nano}
    assert receipt.only("Fined") == told
    assert receipt.only("RoundTallied")["seated"] == 4
    assert room.at_stake("validator 2", VALIDATOR) == before - TERMS.fine_nano
    assert room.world.yard.call("totalSupply") == supply - TERMS.fine_nano
    assert room.state("validator 2", epoch) == FINED
    assert not room.contract.send("tally", epoch, 9, sender=silent).all("Fined")


def test_tally_of_validator_that_left_takes_what_there_is(room: CourtRoom) -> None:
    """A fine reaches what is unbonding, and no further than there is stake."""
    epoch, silent = room.epoch, room.world.account("validator 0")
    room.world.registry.send("startUnbond", VALIDATOR, STAKE, sender=silent)
    room.world.registry.send("slash", silent, VALIDATOR, STAKE - YARD, silent, sender=room.world.slasher)
    room.advance_to((epoch + 1) * EPOCH_S + TERMS.reveal_s)
    told = room.contract.send("tally", epoch, 1, sender=silent).only("Fined")
    assert told["amount"] == YARD
    assert room.at_stake("validator 0", VALIDATOR) == 0


def test_secret_of_validator_below_minimum_draws_nothing(room: CourtRoom) -> None:
    """Weight is the stake in the last second before the epoch; below the minimum it is none."""
    epoch, account = room.epoch, room.world.account("validator 0")
    room.commit("validator 0", epoch + 1)
    room.world.registry.send("startUnbond", VALIDATOR, STAKE - MIN_STAKES[2] + 1, sender=account)
    room.advance_to((epoch + 1) * EPOCH_S)
    room.world.stake(account, VALIDATOR, STAKE)
    room.advance_to((epoch + 2) * EPOCH_S)
    assert room.reveal("validator 0", epoch + 1).only("SecretRevealed")["weight"] == 0
    room.advance_to((epoch + 2) * EPOCH_S + TERMS.reveal_s)
    told = room.contract.send("tally", epoch + 1, 9, sender=account).only("RoundTallied")
    assert told == {"epoch": epoch + 1, "seated": 0, "total": 0, "mix": ZERO32}


def test_secret_weight_is_stake_before_the_epoch(room: CourtRoom) -> None:
    """Stake that came in the epoch, or left in it, changes nothing for it."""
    epoch = room.epoch
    room.world.stake(room.world.account("validator 0"), VALIDATOR, STAKE)
    room.world.registry.send("startUnbond", VALIDATOR, STAKE, sender=room.world.account("validator 1"))
    room.advance_to((epoch + 1) * EPOCH_S)
    assert room.reveal("validator 0", epoch).only("SecretRevealed")["weight"] == STAKE
    assert room.reveal("validator 1", epoch).only("SecretRevealed")["weight"] == STAKE + 100 * YARD
