"""A law: whatever payers and chain do, a payment is taken at most once, at no more than was signed, and money is kept.

Claims, settlements, releases, refusals and silences come in any order, some side by side.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import count

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.databases import open_test_database
from tests.gateway_world import DEPLOYMENT, GATEWAY_KEY
from tests.paid_world import MONEY, MemoryToken
from tests.payers import sign_authorization, sign_transfer

from steelyard.errors import ChainError, ChainUnreachable, PaymentRequired, Reverted, SteelyardError
from steelyard.gateway.x402_rules import Asked
from steelyard.gateway.x402_settle import Claim, Till
from steelyard.gateway.x402_wire import EXACT, SCHEMES, UPTO, Offered, Payment, ask_for
from steelyard.protocol.signing import SigningKey

KEYS = [SigningKey(bytes([0x41 + index]) * 32) for index in range(2)]
REFUSALS = [None, Reverted("no", reason="X"), ChainError("gas", code="insufficient_gas_funds"), ChainUnreachable("?")]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(0, 1), st.integers(1, MONEY), st.booleans()),
        st.tuples(st.just("repeat"), st.integers(0, 9), st.just(0), st.booleans()),
        st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, MONEY), st.booleans()),
        st.tuples(st.just("release"), st.integers(0, 9), st.just(0), st.booleans()),
        st.tuples(st.just("trouble"), st.integers(0, 3), st.just(0), st.booleans()),
        st.tuples(st.just("spend"), st.integers(0, 1), st.integers(0, MONEY), st.booleans()),
    ),
    max_size=14,
)


def offer(token: MemoryToken, key: SigningKey, nano: int, *, is_exact: bool) -> Offered:
    """Return a good payment of somebody's."""
    until_s = int(time.time()) + 10_000
    payment: Payment
    if is_exact:
        payment = sign_authorization(token.yard, key, GATEWAY_KEY.account, nano, until_s=until_s)
    else:
        payment = sign_transfer(DEPLOYMENT, key, GATEWAY_KEY.account, nano, until_s=until_s)
    accepted = ask_for(
        (EXACT if is_exact else UPTO,),
        network="eip155:31415",
        token=DEPLOYMENT.yard,
        receiver=GATEWAY_KEY.account,
        amount_nano=nano,
        window_s=600,
    )
    return Offered(accepted[0], payment)


@given(steps)
@example([("claim", 0, 5, True), ("release", 0, 0, True), ("settle", 0, 5, True)])
@settings(max_examples=25)
def test_payments_are_taken_once_within_what_was_signed(plan: list[tuple[str, int, int, bool]]) -> None:
    """After every step wallets add up, what is held is what is open, and what was taken is what was settled."""

    async def story() -> None:
        token = MemoryToken()
        token.wallets.clear()
        for key in KEYS:
            token.wallets[key.account] = token.allowances[key.account] = MONEY
        ticks = count()
        asked = Asked(SCHEMES, "eip155:31415", DEPLOYMENT.yard, GATEWAY_KEY.account, 100)
        async with open_test_database("sqlite") as database:
            till = Till(
                token,
                database,
                asked,
                process="gateway",
                bench_s=3.0,
                clock=lambda: float(next(ticks)),
                clock_ms=lambda: int(time.time() * 1000),
            )
            offers: list[Offered] = []
            claims: list[Claim] = []
            elsewhere = 0

            async def claim(offered: Offered) -> None:
                with suppress(PaymentRequired):
                    claims.append(await till.claim(offered, 1))

            for kind, which, nano, flag in plan:
                if kind == "claim":
                    offers.append(offer(token, KEYS[which], nano, is_exact=flag))
                    await asyncio.gather(claim(offers[-1]), claim(offers[-1]))
                elif kind == "repeat" and offers:
                    await claim(offers[which % len(offers)])
                elif kind == "trouble":
                    token.refusal = REFUSALS[which]
                elif kind == "spend":  # the payer moves its money away
                    moved = min(nano, token.wallets[KEYS[which].account])
                    token.wallets[KEYS[which].account] -= moved
                    elsewhere += moved
                elif kind == "settle" and claims:
                    one = claims[which % len(claims)]
                    whole = one.payment.amount_nano
                    try:
                        await till.settle(one, whole if one.scheme == EXACT else min(nano, whole))
                    except SteelyardError:
                        assert one.settled is None
                elif kind == "release" and claims:
                    await till.release(claims[which % len(claims)])
                assert sum(token.wallets.values()) + elsewhere == len(KEYS) * MONEY
                assert token.wallets[GATEWAY_KEY.account] == sum(token.taken)
                settled = [one.settled for one in claims if one.settled is not None]
                assert sum(token.taken) == sum(one.amount_nano for one in settled if not one.is_pending)
                assert len(token.spent) == len(token.taken)
                open_claims = [one for one in claims if one.settled is None and not one.is_over]
                for key in KEYS:
                    mine = sum(one.payment.amount_nano for one in open_claims if one.payment.payer == key.account)
                    assert till._held.get(key.account, 0) == mine
            await till.aclose()

    asyncio.run(story())
