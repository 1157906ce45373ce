"""The credit window: how much a provider serves a gateway before it is paid on chain.

exposure = served - paid + highest costs in flight, over all lanes of the gateway's account; an order that would lift it
above the window is refused. The window is the base, plus a share of what the gateway has paid us, up to a ceiling, and
zero once it withdraws or its stake is too small.

Pure: no clock, no chain. Law: docs/spec/money.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.link.port import Failure
from steelyard.node.settings import NodeSettings
from steelyard.protocol.pricing import BASIS_POINTS, format_yard


@dataclass(slots=True)
class Credit:
    """One gateway account's credit with this provider; amounts in nano.

    `served` counts receipts given, signed or not yet; `paid` what the chain paid; `reserved` highest costs in flight.
    `distrust` says why there is no credit at all; empty while there is.
    """

    settings: NodeSettings
    served: int = 0
    paid: int = 0
    reserved: int = 0
    distrust: str = ""

    @property
    def window(self) -> int:
        """The most that may stand open now."""
        if self.distrust:
            return 0
        grown = self.settings.credit_base_nano + self.paid * self.settings.credit_growth_bps // BASIS_POINTS
        return min(grown, self.settings.credit_max_nano)

    @property
    def exposure(self) -> int:
        """What would be lost if the gateway never paid again, orders in flight at their highest cost."""
        return self.served - self.paid + self.reserved

    def reserve(self, max_cost: int) -> Failure | None:
        """Take an order on if it fits the window; else say why it doesn't."""
        if self.distrust:
            return Failure("credit_window", f"no credit: {self.distrust}", retry_after_s=5.0)
        if self.served - self.paid + self.reserved + max_cost > self.window:
            return Failure(
                "credit_window",
                f"{format_yard(self.exposure)} YARD of a credit window of {format_yard(self.window)} stand open, the "
                f"order may cost {format_yard(max_cost)}",
                retry_after_s=1.0,
            )
        self.reserved += max_cost
        return None

    def settle(self, max_cost: int, cost: int) -> None:
        """End an order that was taken on, at its cost (zero for one that failed)."""
        self.reserved -= max_cost
        self.served += cost
