"""What a provider chooses: how much credit it gives, when it redeems, how much it takes on at once."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import ConfigError
from steelyard.protocol.ids import MAX_REGION, is_region
from steelyard.protocol.lanes import MAX_BATCH_CALLS, MAX_BATCH_DELAY_S
from steelyard.protocol.pricing import NANO_PER_YARD


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """A node's own terms; amounts in nano, times in seconds.

    Args:
        credit_base_nano: the window for a stranger. credit_max_nano: its ceiling.
        credit_growth_bps: how much of what a gateway redeemed with us is added to its window, in basis points.
        batch_calls, batch_delay_s: a batch is signed at so many receipts, or so long after its first.
        redeem_value_nano: what must be due before it is redeemed at once. redeem_after_s: what is due is redeemed
            after so long, however little it is. redeem_lanes: vouchers in one transaction.
        is_sweeping: send what a redemption credited to the provider's wallet.
        max_calls: orders worked on at once; more are answered ``busy``. max_deadline_s: the farthest deadline taken.
        evidence_keep_s: how long the evidence of an answer is kept for whoever checks it.
        is_proving: prove lies of gateways on chain as they are found; they are kept in any case.
        region: where this node is, the widest part first (``eu-west-1``), for buyers who ask for it; "" says nothing.
    """

    credit_base_nano: int = NANO_PER_YARD // 10
    credit_max_nano: int = 100 * NANO_PER_YARD
    credit_growth_bps: int = 1_000
    batch_calls: int = MAX_BATCH_CALLS
    batch_delay_s: float = MAX_BATCH_DELAY_S
    redeem_value_nano: int = NANO_PER_YARD // 20
    redeem_after_s: float = 600.0
    redeem_lanes: int = 25
    is_sweeping: bool = True
    max_calls: int = 1_024
    max_deadline_s: float = 900.0
    evidence_keep_s: float = 7_200.0
    is_proving: bool = True
    region: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_calls <= MAX_BATCH_CALLS:
            raise ConfigError(f"batch_calls is {self.batch_calls}: it lies between 1 and {MAX_BATCH_CALLS}")
        if not 0 < self.batch_delay_s <= MAX_BATCH_DELAY_S:
            raise ConfigError(f"batch_delay_s is {self.batch_delay_s}: it is at most {MAX_BATCH_DELAY_S}")
        if not 0 <= self.credit_base_nano <= self.credit_max_nano:
            raise ConfigError(f"credit_base_nano is {self.credit_base_nano}: it lies between 0 and credit_max_nano")
        if not 0 <= self.credit_growth_bps <= 10_000:
            raise ConfigError(f"credit_growth_bps is {self.credit_growth_bps}: it lies between 0 and 10,000")
        if self.redeem_value_nano < 0 or self.redeem_after_s <= 0 or not 1 <= self.redeem_lanes <= 100:
            raise ConfigError(
                "redeem_value_nano, redeem_after_s and redeem_lanes must be positive, redeem_lanes to 100"
            )
        if self.max_calls < 1 or self.max_deadline_s <= 0 or self.evidence_keep_s <= 0:
            raise ConfigError("max_calls, max_deadline_s and evidence_keep_s must be positive")
        if self.region and not is_region(self.region):
            raise ConfigError(
                f"node.region is {self.region!r}: write a-z and 0-9 joined by hyphens, the widest part first, at most "
                f"{MAX_REGION} characters, e.g. eu-west-1",
                param="node.region",
            )
