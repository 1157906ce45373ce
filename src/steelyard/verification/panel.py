"""Who judges a case: seats drawn by stake from secrets that nobody could choose afterwards, as in the Court.

1. Secrets were committed before the case opened and revealed after; each revealer with stake adds its secret to the mix
   and its stake to the draw, in the order in which they committed.
2. Seats are drawn with replacement: who is drawn twice has two votes. Accused and challenger have none.

Law: docs/spec/checking.md, section 9; twin of contracts/src/Panels.sol.  Vectors: tests/vectors/checking.json.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.hashing import ZERO32, keccak, word


class Revealer(msgspec.Struct, frozen=True):
    """A validator that revealed its secret for an epoch: account (20 bytes), secret (32), weight in nano of stake."""

    account: bytes
    secret: bytes
    weight: int


def mix_secrets(revealers: Sequence[Revealer]) -> bytes:
    """Return the 32 bytes that an epoch's secrets make together: mix = keccak(mix || secret), beginning with zero.

    Args:
        revealers: in the order of their commitments; those without weight are passed over.
    """
    mix = ZERO32
    for revealer in revealers:
        if revealer.weight > 0:
            mix = keccak(mix + revealer.secret)
    return mix


def draw_panel(
    case_id: int, revealers: Sequence[Revealer], seats: int, *, barred: Collection[bytes] = (), least: int = 1
) -> list[bytes]:
    """Return the account of each seat, in the order of the seats; empty where fewer than `least` validators may sit.

    Args:
        case_id: the case's number. revealers: in the order of their commitments.
        barred: accounts that have no seat, i.e. accused and challenger. least: the Court's `minValidators`.

    Raises:
        BadMessage: a secret that has not 32 bytes.

    Source: ticket = keccak(keccak(case || mix) || seat) mod eligible stake, over cumulative weights.
    """
    if any(len(revealer.secret) != len(ZERO32) for revealer in revealers):
        raise BadMessage("a revealed secret has 32 bytes")
    eligible = [revealer for revealer in revealers if revealer.weight > 0 and revealer.account not in barred]
    if len(eligible) < max(1, least):
        return []
    ends = list(accumulate(revealer.weight for revealer in eligible))
    seed = keccak(word(case_id) + mix_secrets(revealers))
    tickets = (int.from_bytes(keccak(seed + word(seat)), "big") % ends[-1] for seat in range(seats))
    return [eligible[bisect_right(ends, ticket)].account for ticket in tickets]
