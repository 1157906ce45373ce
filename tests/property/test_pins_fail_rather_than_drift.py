"""Whatever fails, a call goes only where its caller lets it go, and while somebody is left who may have it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.choice import misfit, place
from steelyard.gateway.listing import Listing, Seller
from steelyard.gateway.preferences import Preferences
from steelyard.gateway.routing import Record
from steelyard.gateway.why import show_why
from steelyard.protocol.messages import Offer
from steelyard.services.port import Quote

SERVICE = b"\x0a" * 32
QUOTE = Quote(1_000_000, 1_000_000)
ACCOUNTS = [bytes([number]) * 20 for number in range(1, 7)]
REGIONS = ("", "eu", "eu-west", "eu-west-1", "us-east")

_accounts = st.sampled_from(ACCOUNTS)
_limits = st.none() | st.integers(0, 6)
_wishes = st.builds(
    Preferences,
    order=st.lists(_accounts, max_size=3, unique=True).map(tuple),
    only=st.frozensets(_accounts, max_size=4),
    ignore=st.frozensets(_accounts, max_size=2),
    quantizations=st.sampled_from([(), ("int8",), ("int4", "q8_0")]),
    sort=st.sampled_from(["", "price", "throughput", "latency"]),
    max_in_nano=_limits,
    max_out_nano=_limits,
    max_cost_nano=st.none() | st.integers(0, 12),
    allow_fallbacks=st.booleans(),
    region=st.sampled_from(REGIONS),
)
_sellers = st.lists(
    st.tuples(_accounts, st.integers(0, 5), st.sampled_from(REGIONS), st.sampled_from(["Q8_0", "Q4_0", ""])),
    min_size=1,
    max_size=6,
    unique_by=lambda seller: seller[0],
)


def _seller(account: bytes, price: int, region: str, quantisation: str) -> Seller:
    link: Any = SimpleNamespace(provider=account, is_up=True, calls_in_flight=0)
    offer = Offer(account, SERVICE, price, price, 4, b"\x00" * 32, 1)
    return Seller(
        "m", link, offer, Record(), *[None] * 5, 2 * price, 10**9, region, quantisation  # type: ignore[arg-type]
    )  # fmt: skip


@given(_wishes, _sellers, st.sampled_from([b"", b"prefix"]), st.floats(0, 1, exclude_max=True))
def test_no_attempt_of_a_call_goes_where_it_may_not(
    wished: Preferences, crowd: list[tuple[bytes, int, str, str]], prefix: bytes, luck: float
) -> None:
    """Each one chosen fits, stands first among those left, and the reasons name everyone else."""
    listing = Listing("m", SERVICE, *[None] * 2, sellers=[_seller(*one) for one in crowd])  # type: ignore[arg-type]
    fitting = {
        seller.link.provider: place(wished, seller.candidate(QUOTE))
        for seller in listing.sellers
        if not misfit(wished, seller.candidate(QUOTE))
    }
    tried: list[Seller] = []
    while (chosen := listing.choose(tried, prefix, 1.0, luck, wished, QUOTE)) is not None:
        seller, why = chosen
        left = {account: at for account, at in fitting.items() if account not in {one.link.provider for one in tried}}
        assert seller.link.provider in left
        assert left[seller.link.provider] == min(left.values())
        shown = show_why([(seller.link.provider, "failed", why)])
        assert len(shown["passed_over"]) == len(crowd) - 1
        assert all(one["reason"] for one in shown["passed_over"])
        tried.append(seller)
    if wished.is_single:
        assert len(tried) == min(len(fitting), 1)
    else:
        assert {seller.link.provider for seller in tried} == set(fitting)
