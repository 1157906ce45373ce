"""What to offer for a transaction's gas, and how to offer more when it is stuck.

1. A fee cap is twice the next block's base fee plus the tip: it holds through six full blocks.
2. A replacement raises both numbers by at least the 10 % that nodes demand (12.5 % at some), and never passes the cap.
3. Everything here is wei per gas, integer; a chain that reports no fees is offered the least.

Law: EIP-1559; geth's core/txpool/legacypool (price bump).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.chain.records import parse_quantity
from steelyard.errors import ChainError

FEE_HISTORY_CALL = ("eth_feeHistory", ["0x5", "latest", [50]])


@dataclass(frozen=True, slots=True)
class Fees:
    """An EIP-1559 offer, in wei per gas."""

    max_fee_wei: int
    max_priority_fee_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """Bounds of what a sender offers.

    Args:
        min_tip_wei, max_fee_wei: per gas. bump_percent: how much a replacement adds, 13 or more.
    """

    min_tip_wei: int = 1_000_000
    max_fee_wei: int = 1_000 * 10**9
    bump_percent: int = 15


def suggest_fees(history: Any, policy: FeePolicy) -> Fees:
    """Return the offer that follows from an eth_feeHistory answer; raises ChainError if that is malformed.

    Raises:
        ChainError: malformed, or the base fee alone is above the policy's cap (``fee_too_low``).
    """
    if not isinstance(history, Mapping) or not isinstance(history.get("baseFeePerGas"), list):
        raise ChainError("the chain's answer has a malformed fee history", code="rpc_malformed")
    bases = [parse_quantity(base, "base fee") for base in history["baseFeePerGas"]]
    rewards = [parse_quantity(row[0], "reward") for row in history.get("reward") or () if row]
    tip = max(policy.min_tip_wei, sorted(rewards)[len(rewards) // 2] if rewards else 0)
    base = bases[-1] if bases else 0
    if base + tip > policy.max_fee_wei:
        raise ChainError(
            f"gas costs {base + tip} wei now and at most {policy.max_fee_wei} are allowed: wait, or raise the limit",
            code="fee_too_low",
        )
    return Fees(min(2 * base + tip, policy.max_fee_wei), tip)


def bump_fees(previous: Fees, current: Fees, policy: FeePolicy) -> Fees | None:
    """Return the offer that replaces a stuck one: the dearer of a bump and of what is usual now; None above the cap."""
    bumped = Fees(
        max(_raise(previous.max_fee_wei, policy), current.max_fee_wei),
        max(_raise(previous.max_priority_fee_wei, policy), current.max_priority_fee_wei),
    )
    return bumped if bumped.max_fee_wei <= policy.max_fee_wei else None


def _raise(fee_wei: int, policy: FeePolicy) -> int:
    return fee_wei + -(-fee_wei * policy.bump_percent // 100) + 1
