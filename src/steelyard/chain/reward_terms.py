"""The terms of the pot of rewards: how long a root may be challenged, what proposing one costs.

1. They are fixed at deployment; the order of the fields is the contract's.

Law: docs/spec/contracts.md, section 9; contracts/src/Rewards.sol.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from steelyard.errors import ConfigError
from steelyard.protocol.pricing import NANO_PER_YARD

_WIDTHS = {"challenge_s": 48, "purse_s": 48, "bond_nano": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerms:
    """The constants of a pot; the defaults are a development chain's, whose epochs are a minute.

    Args:
        challenge_s: seconds in which a proposed root may be challenged. purse_s: for how long what a final root added
            is kept for claims under it alone. bond_nano: of a proposal, until it is settled.
    """

    challenge_s: int = 60
    purse_s: int = 3_600
    bond_nano: int = 10 * NANO_PER_YARD

    def __post_init__(self) -> None:
        for name, bits in _WIDTHS.items():
            if not 0 < getattr(self, name) < 1 << bits:
                words = f"rewards.{name} is {getattr(self, name)}: it must be 1 to 2^{bits} - 1"
                raise ConfigError(words, param=f"rewards.{name}")

    def as_tuple(self) -> tuple[int, ...]:
        """Return the fields in the contract's order."""
        return astuple(self)
