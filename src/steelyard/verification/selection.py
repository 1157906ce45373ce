"""Which calls a validator checks: nobody can tell before, the validator can't choose, and anyone recomputes it after.

1. A call is drawn by keccak(secret || receipt): the provider signed the receipt before, the secret was committed before
   that, and it is revealed after the epoch.
2. All validators together draw `rate_ppb` of the calls, each by its share of the stake at the epoch's start.
3. After an epoch with a FAIL, the first calls of each lane are drawn `boost` times as often.
4. Of a newcomer the first long calls of each lane are all checked, each by one validator: the first in rendezvous order
   over the *order* hash. A receipt holds what its provider wrote (times, hashes) and could be ground until a friend is
   drawn; the order is the gateway's.

Law: docs/spec/checking.md, section 2.  Vectors: tests/vectors/checking.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Receipt
from steelyard.protocol.rendezvous import rendezvous_order
from steelyard.verification.parameters import BILLION, SHIPPED, CheckParameters

SECRET_BYTES = 32


class Reason(IntEnum):
    """Why a call is checked."""

    RATE = 0
    BOOST = 1
    NEWCOMER = 2


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of a provider at a service when an epoch begins.

    Attributes:
        verdicts: PASS and FAIL verdicts on its calls, over all epochs before.
        has_failed: one of the epoch just before was a FAIL.
    """

    verdicts: int = 0
    has_failed: bool = False


class Selected(msgspec.Struct, frozen=True):
    """A call to be checked: its receipt's id (32 bytes), and why."""

    receipt: bytes
    reason: Reason


def commitment(secret: bytes) -> bytes:
    """Return what a validator publishes before an epoch: keccak of its 32-byte secret.

    Raises:
        BadMessage: the secret has another length.
    """
    if len(secret) != SECRET_BYTES:
        raise BadMessage(f"a validator's secret has {SECRET_BYTES} bytes, not {len(secret)}")
    return keccak(secret)


def is_selected(secret: bytes, receipt: bytes, rate_ppb: int) -> bool:
    """Tell whether a secret draws a receipt (both 32 bytes) at a rate in parts per billion."""
    return int.from_bytes(keccak(secret + receipt), "big") * BILLION < rate_ppb << 256


def check_rate_ppb(
    stake: int, total_stake: int, is_boosted: bool = False, parameters: CheckParameters = SHIPPED
) -> int:
    """Return a validator's own rate in parts per billion, rounded down, at most one.

    Args:
        stake, total_stake: nano at the epoch's start, its own and all validators'; no stake, no rate.
    """
    if stake <= 0 or total_stake <= 0:
        return 0
    rate = parameters.rate_ppb * (parameters.boost if is_boosted else 1) * stake // total_stake
    return min(BILLION, rate)


def assigned_validator(order_hash: bytes, stakes: Mapping[bytes, int]) -> bytes | None:
    """Return who checks a newcomer's call: drawn by stake over the order's hash; None where nobody has stake."""
    order = rendezvous_order(order_hash, stakes.items())
    return order[0] if order else None


def is_long(receipt: Receipt, parameters: CheckParameters = SHIPPED) -> bool:
    """Tell whether a call counts among a newcomer's first: by its output units, or input where its kind bills none."""
    return (receipt.units_out or receipt.units_in) >= parameters.newcomer_units


def select_calls(
    secret: bytes,
    validator: bytes,
    receipts: Sequence[Receipt],
    standing: Standing,
    stakes: Mapping[bytes, int],
    *,
    calls_before: int = 0,
    long_calls_before: int = 0,
    parameters: CheckParameters = SHIPPED,
) -> list[Selected]:
    """Return which of an epoch's calls on one lane a validator must check, in lane order.

    Args:
        secret: 32 bytes, of this validator and epoch. validator: 20 bytes.
        receipts: the epoch's receipts on one lane, in the order of its batches and leaves.
        standing: of the lane's provider at its service when the epoch began.
        stakes: nano by account, of all validators when the epoch began.
        calls_before: how many calls of this epoch the lane had before these; 0 where all are given.
        long_calls_before: how many long calls (`is_long`) the lane had before these.

    Raises:
        BadMessage: the secret has another length.
    """
    commitment(secret)
    stake, total = stakes.get(validator, 0), sum(value for value in stakes.values() if value > 0)
    plain = check_rate_ppb(stake, total, False, parameters)
    boosted = check_rate_ppb(stake, total, True, parameters)
    is_newcomer = standing.verdicts < parameters.newcomer_verdicts
    long_calls, found = long_calls_before, []
    for index, receipt in enumerate(receipts):
        if is_newcomer and is_long(receipt, parameters):
            long_calls += 1
            if long_calls <= parameters.newcomer_calls:
                if assigned_validator(receipt.order_hash, stakes) == validator:
                    found.append(Selected(receipt.struct_hash(), Reason.NEWCOMER))
                continue
        receipt_id = receipt.struct_hash()
        is_boosted = standing.has_failed and calls_before + index < parameters.boost_calls
        if is_selected(secret, receipt_id, boosted if is_boosted else plain):
            found.append(Selected(receipt_id, Reason.BOOST if is_boosted else Reason.RATE))
    return found
