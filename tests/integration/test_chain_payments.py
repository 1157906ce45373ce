"""Signed payments on real chains: taken once, at no more than was signed, by nobody else, for nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain
from tests.payers import place_permit2, sign_authorization, sign_transfer

from steelyard.chain.payments import Authorization, PaymentsClient, WitnessTransfer
from steelyard.chain.permit2 import PERMIT2, genesis_codes
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.yard import YardClient
from steelyard.errors import BadSignature, Reverted

MONEY = 1_000_000


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_payment_is_settled_once_and_never_above_what_was_signed(kind: str) -> None:
    """EIP-3009 and Permit2, with an approval and with a permit: balances move by what was settled, a repeat reverts."""
    with open_chain(kind) as chain:
        asyncio.run(_story(chain))


async def _story(chain: RunningChain) -> None:
    deployment = await asyncio.to_thread(deploy_on, chain)
    gateway, payer, thief = chain.keys[0], chain.keys[1], chain.keys[2]
    async with ChainRpc([chain.url]) as rpc:
        yard, client = YardClient(rpc, deployment), PaymentsClient(rpc, deployment)
        mine, theirs = Sender(rpc, gateway), Sender(rpc, payer)
        assert await client.has_upto() == (kind_has_it := chain.kind == "embedded")
        await place_permit2(chain, mine)
        assert kind_has_it or await client.has_upto()
        assert await rpc.code(PERMIT2) == genesis_codes(chain.chain_id)[PERMIT2]  # by its real creation on anvil
        await yard.transfer(mine, payer.account, MONEY)
        block = await rpc.block()
        assert block is not None
        until_s = block.timestamp_s + 3_600

        async def spent() -> int:
            return MONEY - await yard.fetch_balance(payer.account)

        async def refuse(payment: Authorization | WitnessTransfer, nano: int, reason: str, by: Sender = mine) -> None:
            before = await spent()
            with pytest.raises(Reverted, match=reason):
                await client.settle(by, payment, nano)
            assert await spent() == before

        exact = sign_authorization(yard, payer, gateway.account, 1_000, until_s=until_s)
        client.require_signed(exact)
        standing = await client.fetch_standing(exact)
        assert (standing.balance_nano, standing.is_nonce_spent) == (MONEY, False)
        assert abs(standing.block_time_s - block.timestamp_s) < 60
        await client.simulate(exact, 1_000, gateway.account)
        await client.settle(mine, exact, 1_000)
        assert await spent() == 1_000
        assert (await client.fetch_standing(exact)).is_nonce_spent
        await refuse(exact, 1_000, "ERC3009")
        with pytest.raises(BadSignature):
            client.require_signed(replace(exact, amount_nano=2_000))
        with pytest.raises(ValueError, match="can't be settled at"):
            await client.settle(mine, exact, 999)

        upto = sign_transfer(deployment, payer, gateway.account, 5_000, until_s=until_s)
        client.require_signed(upto)
        standing = await client.fetch_standing(upto)
        assert (standing.allowance_nano, standing.is_nonce_spent) == (0, False)
        await refuse(upto, 5_000, "TRANSFER_FROM_FAILED")
        await yard.approve(theirs, PERMIT2, 10**12)
        await refuse(upto, 5_001, "AmountExceedsPermitted")
        await refuse(upto, 0, "InvalidAmount")
        await refuse(upto, 5_000, "UnauthorizedFacilitator", Sender(rpc, thief))
        await refuse(replace(upto, receiver=thief.account), 5_000, "0x815e1d64|InvalidSigner")
        late = sign_transfer(deployment, payer, gateway.account, 5_000, until_s=until_s, valid_after_s=until_s)
        await refuse(late, 5_000, "PaymentTooEarly")
        await client.simulate(upto, 700, gateway.account)
        await client.settle(mine, upto, 700)
        assert await spent() == 1_700
        assert (await client.fetch_standing(upto)).is_nonce_spent
        await refuse(upto, 700, "0x756688fe|InvalidNonce")

        await yard.approve(theirs, PERMIT2, 0)
        nonce = await yard.fetch_permit_nonce(payer.account)
        permit = yard.sign_permit(payer, PERMIT2, 5_000, nonce=nonce, deadline_s=until_s)
        permitted = sign_transfer(deployment, payer, gateway.account, 5_000, until_s=until_s, permit=permit)
        await refuse(replace(permitted, permit=replace(permit, amount_nano=4_999)), 10, "Permit2612AmountMismatch")
        await client.simulate(permitted, 300, gateway.account)
        await client.settle(mine, permitted, 300)
        assert await spent() == 2_000
        assert await yard.fetch_allowance(payer.account, PERMIT2) == 4_700
