"""What the court answers, as records: secrets and tallies, cases, panels, seats. Amounts are nano, times Unix seconds.

Law: contracts/src/Secrets.sol, Panels.sol, Cases.sol; docs/spec/contracts.md, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from steelyard.chain.registry import Role
from steelyard.protocol.hashing import ZERO32, address_word, keccak, word
from steelyard.protocol.messages import Lane, Outcome

NO_TOPIC = ZERO32
"""The topic of a case that needs none."""


class CaseKind(IntEnum):
    """What is claimed; the numbers are the contract's."""

    CHEAT = 0
    LAZY = 1
    WRONG_ROOT = 2

    @property
    def role(self) -> Role:
        """Whose stake is at risk."""
        return Role.PROVIDER if self is CaseKind.CHEAT else Role.VALIDATOR


class Phase(IntEnum):
    """Where a case stands; NONE is a number that no case has."""

    NONE = 0
    DRAWING = 1
    VOTING = 2
    CONVICTED = 3
    CLOSED = 4


class Ruling(IntEnum):
    """How a case ended; NONE while it is open."""

    NONE = 0
    CONVICTED = 1
    ACQUITTED = 2
    LAPSED = 3


class SecretState(IntEnum):
    """How far a validator's secret for an epoch is."""

    NONE = 0
    COMMITTED = 1
    REVEALED = 2
    FINED = 3


@dataclass(frozen=True, slots=True)
class EpochSecret:
    """A validator's secret of an epoch.

    Attributes:
        value: the commitment; once revealed the secret. weight_nano: draws with it. end_nano: the end of its place on
            the line of weights, zero until it is tallied.
    """

    value: bytes
    weight_nano: int
    end_nano: int
    state: SecretState


@dataclass(frozen=True, slots=True)
class Round:
    """An epoch's tally: `walked` of the `committed` validators, `seated` of which draw, by `mix`."""

    total_nano: int
    walked: int
    seated: int
    mix: bytes
    committed: tuple[bytes, ...]

    @property
    def is_tallied(self) -> bool:
        """Whether a panel can be drawn from it, once the time to reveal is over."""
        return self.walked == len(self.committed)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a gateway paid on one lane for calls of the evidence, in nano."""

    lane: Lane
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it stands: it covers what was done from `since_s` to `opened_at_s`; `epoch` draws its next panel."""

    accused: bytes
    kind: CaseKind
    phase: Phase
    ruling: Ruling
    is_appealed: bool
    draws: int
    challenger: bytes
    opened_at_s: int
    since_s: int
    epoch: int
    appeal_until_s: int
    topic: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class Panel:
    """A case's present panel: votes are committed, then revealed, until these Unix seconds; `epoch` drew it."""

    commit_until_s: int
    reveal_until_s: int
    guilty: int
    innocent: int
    revealed: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Seat:
    """A juror's seats on a panel; the commitment is zero until it voted."""

    commitment: bytes
    seats: int
    is_revealed: bool
    vote: Outcome


@dataclass(frozen=True, slots=True)
class Standing:
    """Cases of a kind against an account on a topic: how many are open, and until when it stands convicted (or 0)."""

    open_cases: int
    settled_until_s: int


def vote_commitment(case_id: int, epoch: int, juror: bytes, vote: Outcome, salt: bytes) -> bytes:
    """Return what a juror commits to for a panel that `epoch` drew; `salt` is 32 random bytes, kept secret."""
    return keccak(word(case_id) + word(epoch) + address_word(juror) + word(vote) + salt)
