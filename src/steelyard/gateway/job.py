"""One client's request on its way: what it asks for, who asks, and where it was tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steelyard.gateway.access import Account
from steelyard.gateway.legs import NOTHING, Carry
from steelyard.services.port import Quote, Request

if TYPE_CHECKING:
    from steelyard.gateway.catalogue import Listing, Seller
    from steelyard.gateway.preferences import Preferences
    from steelyard.storage.meter import BudgetMeter


@dataclass(slots=True, eq=False)
class Job:
    """A request that was read and not answered yet; it goes through one or more attempts.

    Attributes:
        account, meter: whose key it is, and that key's budget. started_s: monotonic, when it had come whole.
        call_id, call_hex, salt, seed: drawn once, so that an attempt elsewhere keeps them.
        is_private: kept with the call's row, and never sent to a provider.
        tried, failures: who was asked, and why each of them gave no answer.
        preferences: what the caller asks of its providers, for every attempt; None: nothing.
        why: how the last one was chosen, and who was passed over (why.py).
        carry: what the client has of the answer from legs that are over (legs.py). rescues: for each leg that was
            replaced its provider in hex, and why. must_repeat: no provider could go on from what there is.
        is_deep: it asks for what only archives have. is_safe: two providers may be asked, and the first answer counts.
        is_own: the gateway's own question, which says nothing of how fast a provider serves others.
    """

    account: Account
    meter: BudgetMeter
    listing: Listing
    request: Request
    body: bytes
    quote: Quote
    is_private: bool
    started_s: float
    call_id: bytes
    call_hex: bytes
    salt: bytes
    seed: int
    tried: list[Seller] = field(default_factory=list)
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    preferences: Preferences | None = None
    why: bytes | None = None
    carry: Carry = NOTHING
    rescues: tuple[tuple[str, str], ...] = ()
    must_repeat: bool = False
    is_deep: bool = False
    is_safe: bool = False
    is_own: bool = False
