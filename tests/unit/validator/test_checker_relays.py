"""Relayed answers are checked at a node of the validator's own: several differences tell, one alone doesn't."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from tests.relay_chain import ToyChain, ToyNode, relay_service
from tests.service_world import collect
from tests.validator_world import SALT, SERVICE

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Grade, Order, Outcome, Receipt, content_hash
from steelyard.services.rpc import RpcService
from steelyard.validator.book import bets_of
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.gateway_client import ShownCall
from steelyard.validator.replayer import OwnReplayer
from steelyard.verification.consensus import OWN_NODE, consensus_null
from steelyard.verification.null import decode_null, encode_null


def make_node(balance: int) -> RpcService:
    """Return the kind over a node that says of every account that it has so much."""
    node = ToyNode(ToyChain(), balance=balance)
    node.chain.mine(100)
    return relay_service(node)


def balances(count: int, block: str = "0x5") -> Any:
    """Return a batch of so many pinned reads, or one."""
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": "eth_getBalance", "params": [f"0x{number:040x}", block]}
        for number in range(count)
    ]
    return calls if count > 1 else calls[0]


async def give(value: Any) -> Any:
    """Return what a fetch would."""
    return value


def check(said: int, true: int, asked: Any, *, has_node: bool = True) -> Checked:
    """Have one node answer, and another one check it."""

    async def story() -> Checked:
        service, body = make_node(said), json.dumps(asked).encode()
        result, _ = await collect(service, service.parse("rpc", body), 0)
        parties = (b"\x01" * 16, b"\x02" * 20, b"\x03" * 20, SERVICE, 1)
        order = Order(*parties, content_hash(SALT, body), ZERO32, 0, Grade.CONSENSUS, 1, 1, 10**9, 10**13)
        counts = (result.units_in, result.units_out, 1, 1, 2, int(result.finish))
        receipt = Receipt(order.struct_hash(), 0, content_hash(SALT, result.content), ZERO32, *counts)
        mine = make_node(true)
        checkable = Checkable(mine, False, OwnReplayer(mine, OWN_NODE) if has_node else None, consensus_null(ZERO32))
        call = ShownCall("rpc", body, result.content, SALT)
        return await check_call(order, receipt, checkable, partial(give, call), partial(give, None))

    return asyncio.run(story())


def test_honest_relay_passes_and_a_lying_one_fails() -> None:
    """Over items enough for a verdict."""
    assert check(7, 7, balances(6)).judgement.outcome is Outcome.PASS
    assert check(8, 7, balances(6)).judgement.outcome is Outcome.FAIL


def test_one_answer_alone_is_no_verdict_and_counts_all_the_same() -> None:
    """It moves the suspicion: against a liar, and for who is honest."""
    for said, is_against in ((7, False), (8, True)):
        checked = check(said, 7, balances(1))
        assert (checked.judgement.outcome, checked.judgement.reason) == (Outcome.ABSTAIN, "too_few_tokens")
        assert checked.evidence is not None
        assert (checked.evidence.log_e > 0) == is_against
        assert bets_of(checked) is not None


@pytest.mark.parametrize(("block", "has_node"), [("latest", True), ("0x5", False)])
def test_what_cannot_be_replayed_abstains(block: str, has_node: bool) -> None:
    """What moves with the chain, and whatever is asked where the validator has no node."""
    checked = check(8, 7, balances(6, block), has_node=has_node)
    assert (checked.judgement.outcome, checked.judgement.reason) == (Outcome.ABSTAIN, "no_model")


def test_declared_null_is_a_null_like_any() -> None:
    """It can be written and read."""
    null = consensus_null(b"\x01" * 32)
    assert decode_null(encode_null(null)) == null
