"""The court's terms: how long each step takes, how large panels are, what it costs.

1. They are fixed at deployment, and stake must not be able to leave before they have run: `needed_s`.
2. The order of the fields is the contract's.

Law: docs/spec/contracts.md, section 8; contracts/src/Sanctions.sol.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from steelyard.errors import ConfigError
from steelyard.protocol.pricing import NANO_PER_YARD

_MAX_SEATS = 64
_WHOLE_BPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CourtTerms:
    """The constants of a court; the defaults are a development chain's, whose epochs are a minute.

    Args:
        reveal_s: seconds after an epoch in which its secrets are revealed. commit_s, vote_s: seconds to commit votes
            after a draw, and then to reveal them. appeal_s: seconds to appeal after a conviction.
        keep_s: seconds after a call in which its evidence may be demanded. evidence_s: seconds to serve it then.
        min_validators: fewest that a panel is drawn from. max_draws: panels that may fail until a case lapses.
        panel_size, panel_quorum, appeal_size, appeal_quorum: seats, and how many of them convict.
        slash_bps: basis points of the stake that a conviction takes. fault_bps: what a lie that it sees itself takes.
        bond_nano, appeal_bond_nano, demand_bond_nano: to open a case, to appeal, to demand evidence.
        fine_nano: what a validator loses for a withheld secret or an empty seat.
    """

    reveal_s: int = 30
    commit_s: int = 30
    vote_s: int = 30
    appeal_s: int = 60
    keep_s: int = 1800
    evidence_s: int = 120
    min_validators: int = 3
    max_draws: int = 3
    panel_size: int = 7
    panel_quorum: int = 5
    appeal_size: int = 15
    appeal_quorum: int = 11
    slash_bps: int = 5_000
    fault_bps: int = 10_000
    bond_nano: int = 10 * NANO_PER_YARD
    appeal_bond_nano: int = 20 * NANO_PER_YARD
    demand_bond_nano: int = NANO_PER_YARD
    fine_nano: int = 5 * NANO_PER_YARD

    def __post_init__(self) -> None:
        widths = {"_s": 48, "_nano": 128, "_bps": 16, "validators": 16, "": 8}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            bits = next(width for suffix, width in widths.items() if name.endswith(suffix))
            least = 0 if name == "fine_nano" else 1
            if not least <= value < 1 << bits:
                raise ConfigError(f"court.{name} is {value}: it must be {least} to 2^{bits} - 1", param=f"court.{name}")
        for name in ("slash_bps", "fault_bps"):
            if getattr(self, name) > _WHOLE_BPS:
                raise ConfigError(f"court.{name} is above {_WHOLE_BPS}, the whole stake", param=f"court.{name}")
        for name, size, quorum in (
            ("panel_quorum", self.panel_size, self.panel_quorum),
            ("appeal_quorum", self.appeal_size, self.appeal_quorum),
        ):
            if not size < 2 * quorum <= 2 * size:
                words = f"court.{name} is {quorum} of {size}: it must be a majority, and at most all"
                raise ConfigError(words, param=f"court.{name}")
        if not self.panel_size <= self.appeal_size <= _MAX_SEATS:
            words = f"court.appeal_size must be at least panel_size, and at most {_MAX_SEATS}"
            raise ConfigError(words, param="court.appeal_size")

    def needed_s(self, epoch_s: int) -> int:
        """Return what unbonding must outlast, in seconds: an epoch, the evidence, a panel, an appeal and its panel."""
        panel_s = epoch_s + self.reveal_s + self.commit_s + self.vote_s
        return epoch_s + self.keep_s + self.evidence_s + 2 * panel_s + self.appeal_s

    def as_tuple(self) -> tuple[int, ...]:
        """Return the fields in the contract's order."""
        return astuple(self)
