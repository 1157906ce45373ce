"""What a call costs and who gets what: integers only, rounding stated.

1. A price is nano per 1,000,000 units; a call's cost is rounded up, once.
2. A split is four shares in basis points: provider, builder, data pot, protocol; the three others are rounded down and
   the remainder goes to the provider.

Law: docs/spec/money.md.  The contracts' twin: contracts/src/Escrow.sol.
"""

from __future__ import annotations

from collections.abc import Sequence

NANO_PER_YARD = 10**9
UNITS_PER_PRICE = 10**6
BASIS_POINTS = 10_000


def call_cost(units_in: int, units_out: int, price_in: int, price_out: int) -> int:
    """Return a call's cost in nano: ceil((units_in * price_in + units_out * price_out) / 10^6)."""
    return -(-(units_in * price_in + units_out * price_out) // UNITS_PER_PRICE)


def split_payment(amount: int, basis_points: Sequence[int]) -> tuple[int, int, int, int]:
    """Return (provider, builder, data pot, protocol) shares in nano that add up to the amount.

    Args:
        amount: nano, not negative. basis_points: four shares that add up to 10,000.

    Raises:
        ValueError: not four shares, or they don't add up.
    """
    if len(basis_points) != 4 or sum(basis_points) != BASIS_POINTS or min(basis_points) < 0:
        raise ValueError(f"a split is four shares that add up to 10,000 basis points, not {list(basis_points)}")
    builder, data, protocol = (amount * share // BASIS_POINTS for share in basis_points[1:])
    return amount - builder - data - protocol, builder, data, protocol


def format_yard(nano: int) -> str:
    """Return an amount as YARD with its decimals, e.g. ``1.250000000`` → ``1.25``; exact."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, rest = divmod(nano, NANO_PER_YARD)
    decimals = f"{rest:09d}".rstrip("0")
    return f"{sign}{whole:,}" + (f".{decimals}" if decimals else "")


def parse_yard(text: str) -> int:
    """Return the nano of an amount in YARD such as ``12``, ``0.5`` or ``1,000.25``.

    Raises:
        ValueError: not a plain non-negative decimal number with at most nine decimals.
    """
    whole, _, decimals = text.strip().replace(",", "").replace("_", "").partition(".")
    if not (whole or decimals) or not (whole + decimals).isascii() or not (whole + decimals).isdigit():
        raise ValueError(f"{text!r} is no amount of YARD: write it like 12 or 0.5")
    if len(decimals) > 9:
        raise ValueError(f"{text!r} has more than nine decimals: 1 YARD is 1,000,000,000 nano")
    return int(whole or "0") * NANO_PER_YARD + int(decimals.ljust(9, "0"))
