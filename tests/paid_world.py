"""A gateway that takes x402 over a token that is a dictionary, and payers who sign as the real ones do.

async with open_paid_world(tmp_path) as paid:
    status, body, headers = await paid.ask()                     # 402, with `paid.price(body)`
    status, body, headers = await paid.ask(paid.pay(body))       # 200

`paid.chain` holds wallets and spent nonces; `refuse`, `silence` and `gate` make it misbehave. Real chains are in
tests/e2e/test_x402.py and tests/integration/test_chain_payments.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
from tests.gateway_world import DEPLOYMENT, GATEWAY_KEY, MODEL, World, open_world
from tests.payers import payment_header, sign_authorization, sign_transfer

from steelyard.chain.payments import Authorization, PaymentsClient, Standing
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.yard import YardClient
from steelyard.errors import ChainError, Reverted
from steelyard.gateway.x402 import Payments, X402Terms
from steelyard.gateway.x402_wire import Payment
from steelyard.protocol.hashing import keccak
from steelyard.protocol.signing import SigningKey

PAYER = SigningKey(b"\x31" * 32)
MONEY = 1_000_000
_NO_RPC = cast(ChainRpc, None)


@dataclass(eq=False)
class MemoryToken:
    """Implements `x402_settle.PaymentChain`; every settlement is in `taken`."""

    wallets: Counter[bytes] = field(default_factory=lambda: Counter({PAYER.account: MONEY}))
    allowances: Counter[bytes] = field(default_factory=lambda: Counter({PAYER.account: 10**15}))
    spent: set[tuple[bytes, bytes | int]] = field(default_factory=set)
    taken: list[int] = field(default_factory=list)
    refusal: ChainError | None = None
    simulations_left: int | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    stands: bool = True

    def __post_init__(self) -> None:
        self.gate.set()
        self._client = PaymentsClient(_NO_RPC, DEPLOYMENT)
        self.yard = YardClient(_NO_RPC, DEPLOYMENT)

    async def has_upto(self) -> bool:
        return self.stands

    def require_signed(self, payment: Payment) -> None:
        self._client.require_signed(payment)

    async def fetch_standing(self, payment: Payment) -> Standing:
        payer = payment.payer
        spent = (payer, payment.nonce) in self.spent
        return Standing(self.wallets[payer], self.allowances[payer], spent, int(time.time()))

    async def simulate(self, payment: Payment, amount_nano: int) -> None:
        if self.simulations_left == 0:
            raise Reverted("it would revert", reason="TEST")
        if self.simulations_left is not None:
            self.simulations_left -= 1
        if (payment.payer, payment.nonce) in self.spent or self.wallets[payment.payer] < amount_nano:
            raise Reverted("it would revert", reason="TEST")

    async def settle(self, payment: Payment, amount_nano: int) -> bytes:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        await self.simulate(payment, amount_nano)
        assert amount_nano <= payment.amount_nano
        self.spent.add((payment.payer, payment.nonce))
        self.wallets[payment.payer] -= amount_nano
        self.wallets[payment.receiver] += amount_nano
        self.taken.append(amount_nano)
        return keccak(payment.struct_hash())


@dataclass(eq=False)
class PaidWorld:
    """A gateway that takes x402 and its token."""

    world: World
    chain: MemoryToken

    @property
    def till(self) -> Any:
        """The gateway's till."""
        paid = self.world.gateway.paid
        assert paid is not None
        return paid._till

    async def ask(self, header: str = "", text: str = "hello there", **changes: Any) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON (or text) and headers of one chat without a key."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]} | changes
        sent = {"PAYMENT-SIGNATURE": header} if header else {}
        url = self.world.base_url + "/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=sent) as reply:
            raw = await reply.text()
            found = {name.lower(): value for name, value in reply.headers.items()}
            return reply.status, json.loads(raw) if reply.content_type == "application/json" else raw, found

    async def quote(self, text: str = "hello there", **changes: Any) -> Any:
        """Return the 402's body for a chat."""
        status, body, headers = await self.ask(text=text, **changes)
        assert status == 402, body
        assert json.loads(base64.b64decode(headers["payment-required"]))["accepts"] == body["accepts"]
        return body

    def pay(self, asked: Any, scheme: str = "exact", key: SigningKey = PAYER, **changes: Any) -> str:
        """Return the header that pays what was asked; `changes` are made to the payment before it is signed."""
        accepted = next(one for one in asked["accepts"] if one["scheme"] == scheme)
        return payment_header(accepted, self.sign(accepted, key, **changes))

    def sign(self, accepted: Any, key: SigningKey = PAYER, **changes: Any) -> Payment:
        """Return the signed payment for an offer."""
        amount, until_s = int(accepted["amount"]), int(time.time()) + accepted["maxTimeoutSeconds"]
        if accepted["scheme"] == "exact":
            return sign_authorization(self.chain.yard, key, GATEWAY_KEY.account, amount, until_s=until_s, **changes)
        return sign_transfer(DEPLOYMENT, key, GATEWAY_KEY.account, amount, until_s=until_s, **changes)

    def price(self, asked: Any) -> int:
        """Return what a 402 asks."""
        return int(asked["accepts"][0]["amount"])


def told(headers: dict[str, str]) -> dict[str, Any]:
    """Return what a reply says of its payment."""
    decoded: dict[str, Any] = json.loads(base64.b64decode(headers["payment-response"]))
    return decoded


def is_exact(payment: Payment) -> bool:
    """Say whether a payment is by EIP-3009."""
    return isinstance(payment, Authorization)


@asynccontextmanager
async def open_paid_world(folder: Path, *, terms: X402Terms | None = None, **options: Any) -> AsyncIterator[PaidWorld]:
    """Give a running gateway with an echo node, a token, and a payer who has some."""
    chain = options.pop("chain", None) or MemoryToken()
    payments = Payments(terms=terms or X402Terms(), chain=chain, chain_id=DEPLOYMENT.chain_id, token=DEPLOYMENT.yard)
    async with open_world(folder, payments=payments, **options) as world:
        yield PaidWorld(world, chain)
