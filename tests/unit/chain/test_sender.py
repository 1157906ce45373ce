"""One account's transactions under silence, loss, contention and reorganisation, against a chain in memory."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st
from tests.memory_chain import (
    KEY,
    TARGET,
    MemoryChain,
    fee_of,
    fields_of,
    nonce_of,
    sender_on,
    until,
    value_of,
)

from steelyard.chain.records import TxReceipt
from steelyard.chain.sender import SendPolicy
from steelyard.errors import ChainError, ChainUnreachable, Reverted
from steelyard.protocol.hashing import keccak


def test_send_many_at_once_have_one_nonce_each() -> None:
    """Thirty tasks send at once: nonces 0 to 29, each signed and broadcast once, each with its own receipt."""
    chain = MemoryChain()

    async def story() -> list[TxReceipt]:
        sender = sender_on(chain)
        return await asyncio.gather(*[sender.send(TARGET, value_wei=n) for n in range(30)])

    receipts = asyncio.run(story())
    assert [nonce_of(raw) for raw in chain.mined] == list(range(30))
    assert sorted(value_of(raw) for raw in chain.mined) == list(range(30))
    assert len(chain.broadcasts) == 30
    assert [value_of(chain.mined[receipt.block_number - 100]) for receipt in receipts] == list(range(30))


def test_send_that_would_revert_takes_no_nonce() -> None:
    """What the estimate refuses is refused with its reason, and the next send has the nonce."""
    chain = MemoryChain()
    chain.estimate = Reverted("no", data=bytes.fromhex("3ee5aeb5"))

    async def story() -> None:
        sender = sender_on(chain)
        with pytest.raises(Reverted, match=r"the chain refused Escrow\.redeem: ReentrancyGuardReentrantCall"):
            await sender.send(TARGET, what="Escrow.redeem")
        assert chain.broadcasts == []
        chain.estimate = 21_000
        await sender.send(TARGET)

    asyncio.run(story())
    assert len(chain.mined) == 1


def test_send_mined_and_reverted_raises_with_the_reason() -> None:
    """A transaction that fails when mined raises Reverted with the reason that a replay gives."""
    chain = MemoryChain()
    chain.is_mining = False

    async def story() -> None:
        sender = sender_on(chain)
        task = asyncio.create_task(sender.send(TARGET, gas=50_000))
        await until(lambda: bool(chain.pool))
        chain.failing.add(chain.pool[0])
        chain.mine()
        with pytest.raises(Reverted, match="ReentrancyGuardReentrantCall"):
            await task

    asyncio.run(story())


@pytest.mark.parametrize("fault", ["lost", "silent", "forgotten"])
def test_send_through_one_fault_is_mined_once(fault: str) -> None:
    """Whatever happens to the first broadcast, the same bytes go again, and one transaction is mined."""
    chain = MemoryChain()
    chain.faults.append(fault)

    async def story() -> None:
        sender = sender_on(chain)
        await sender.send(TARGET, value_wei=1)
        await sender.send(TARGET, value_wei=2)

    asyncio.run(story())
    assert [value_of(raw) for raw in chain.mined] == [1, 2]
    assert len(set(chain.broadcasts)) == 2


def test_send_nonce_used_elsewhere_takes_the_next() -> None:
    """A nonce that another process used meanwhile costs one more round, not a failure."""
    chain = MemoryChain()

    async def story() -> None:
        sender = sender_on(chain)
        await sender.send(TARGET, value_wei=1)
        chain.mined.append(b"\x02" + rlp.encode([b"", b"\x01", b"", b"\x01"]))
        await sender.send(TARGET, value_wei=2)

    asyncio.run(story())
    assert [nonce_of(raw) for raw in chain.mined] == [0, 1, 2]
    assert value_of(chain.mined[2]) == 2


def test_send_behind_a_strangers_waiting_transaction_takes_the_next_nonce() -> None:
    """A waiting transaction of an earlier life (a crash) is left alone, not replaced."""
    chain = MemoryChain()
    chain.is_mining = False
    stranger = b"\x02" + rlp.encode([b"", b"", b"", (10**18).to_bytes(8, "big"), b"", b"", b""])
    chain.pool[0] = stranger

    async def story() -> None:
        sender = sender_on(chain)
        task = asyncio.create_task(sender.send(TARGET))
        await until(lambda: 1 in chain.pool)
        chain.mine()
        await task

    asyncio.run(story())
    assert chain.mined[0] == stranger
    assert len(chain.mined) == 2


def test_send_stuck_transaction_is_replaced_by_a_dearer_one() -> None:
    """A transaction that waits too long is sent again with the same nonce and a fee that nodes accept."""
    chain = MemoryChain()
    chain.is_mining = False

    async def story() -> TxReceipt:
        sender = sender_on(chain)
        task = asyncio.create_task(sender.send(TARGET, value_wei=5))
        await until(lambda: len(set(chain.broadcasts)) >= 3)
        chain.mine()
        return await task

    receipt = asyncio.run(story())
    versions = list(dict.fromkeys(chain.broadcasts))
    assert {nonce_of(raw) for raw in versions} == {0}
    assert {value_of(raw) for raw in versions} == {5}
    assert all(fee_of(b) * 1000 > fee_of(a) * 1125 for a, b in pairwise(versions))
    assert receipt.tx_hash == keccak(chain.mined[0])


def test_send_nonce_taken_while_waiting_is_said_so() -> None:
    """If another transaction used the nonce of one that was lost, the caller is told that its own is void."""
    chain = MemoryChain()
    chain.faults.append("forgotten")

    async def story() -> None:
        sender = sender_on(chain)
        task = asyncio.create_task(sender.send(TARGET, value_wei=5))
        await until(lambda: bool(chain.broadcasts))
        chain.mined.append(b"\x02" + rlp.encode([b"", b"", b"", b"\x01"]))
        with pytest.raises(ChainError, match="used by another transaction") as caught:
            await task
        assert caught.value.code == "transaction_replaced"
        await sender.send(TARGET)

    asyncio.run(story())
    assert len(chain.mined) == 2


def test_send_never_mined_times_out_as_pending() -> None:
    """A send gives up after its time-out and says that the transaction may still be mined."""
    chain = MemoryChain()
    chain.is_mining = False
    with pytest.raises(ChainError, match="it may still be") as caught:
        asyncio.run(sender_on(chain).send(TARGET))
    assert caught.value.code == "transaction_pending"


def test_send_chain_silent_to_the_end_is_unreachable() -> None:
    """A chain that never answers the broadcast is ChainUnreachable, which may be retried."""
    chain = MemoryChain()
    chain.faults.extend(["lost"] * 10_000)
    with pytest.raises(ChainUnreachable):
        asyncio.run(sender_on(chain).send(TARGET))


def test_send_given_up_nonce_is_used_again() -> None:
    """A task that is cancelled before its transaction arrived leaves no gap: the next send takes its nonce."""
    chain = MemoryChain()
    chain.faults.extend(["lost"] * 3)

    async def story() -> None:
        sender = sender_on(chain)
        task = asyncio.create_task(sender.send(TARGET, value_wei=1))
        await until(lambda: bool(chain.broadcasts))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        chain.faults.clear()
        await sender.send(TARGET, value_wei=2)

    asyncio.run(story())
    assert [value_of(raw) for raw in chain.mined] == [2]


def test_send_behind_a_given_up_nonce_fills_the_gap() -> None:
    """A transaction that waits behind a nonce that was given up gets there: an empty one fills the gap."""
    chain = MemoryChain()
    chain.faults.append("forgotten")

    async def story() -> None:
        sender = sender_on(chain)
        first = asyncio.create_task(sender.send(TARGET, value_wei=1))
        await until(lambda: bool(chain.broadcasts))
        second = asyncio.create_task(sender.send(TARGET, value_wei=2))
        await until(lambda: len(chain.broadcasts) >= 2)
        first.cancel()
        await second

    asyncio.run(story())
    assert [value_of(raw) for raw in chain.mined] == [0, 2]
    assert fields_of(chain.mined[0])[5] == KEY.account


def test_send_wiped_chain_is_told_apart_from_a_gap() -> None:
    """A chain that knows far fewer transactions than this account sent is reported, not papered over."""
    chain = MemoryChain()
    chain.faults.append("ok")

    async def story() -> None:
        sender = sender_on(chain)
        chain.mined += [b"\x02" + rlp.encode([b"", bytes([n]) if n else b"", b"", b"\x01"]) for n in range(40)]
        await sender.send(TARGET)
        chain.mined.clear()
        with pytest.raises(ChainError, match="was the chain wiped") as caught:
            await sender.send(TARGET)
        assert caught.value.code == "nonce_gap"

    asyncio.run(story())


def test_send_reorganised_transaction_is_sent_again() -> None:
    """A receipt that vanishes before it is deep enough doesn't count; the same bytes are mined again."""
    chain = MemoryChain()

    async def story() -> TxReceipt:
        sender = sender_on(chain)
        chain.height = 0
        task = asyncio.create_task(sender.send(TARGET, value_wei=1, confirmations=12))
        await until(lambda: bool(chain.mined))
        chain.mined.clear()
        return await task

    receipt = asyncio.run(story())
    assert receipt.tx_hash == keccak(chain.mined[0])
    assert len(set(chain.broadcasts)) == 1
    assert len(chain.broadcasts) == 2


def test_send_too_much_gas_says_split_it() -> None:
    """A transaction above EIP-7825's limit is refused before it is sent."""
    chain = MemoryChain()
    chain.estimate = 2**24 + 1
    with pytest.raises(ChainError, match="split it"):
        asyncio.run(sender_on(chain).send(TARGET))
    assert chain.broadcasts == []


def test_send_no_gas_coin_names_the_account() -> None:
    """An account that can't pay for gas is named, so that somebody can fund it."""
    chain = MemoryChain()
    chain.estimate = ChainError("insufficient funds", code="insufficient_gas_funds")
    with pytest.raises(ChainError, match=KEY.account.hex()):
        asyncio.run(sender_on(chain).send(TARGET))


def test_sender_repr_shows_no_key() -> None:
    """A sender prints as its account alone."""
    assert KEY.secret.hex() not in repr(sender_on(MemoryChain()))


@given(st.lists(st.sampled_from(["ok", "lost", "silent", "forgotten"]), max_size=40), st.integers(1, 8))
def test_send_any_faults_mines_each_send_exactly_once(faults: list[str], count: int) -> None:
    """Under any run of lost, silent and forgotten broadcasts each send is mined once, under nonces without gaps."""
    chain = MemoryChain()
    chain.faults.extend(faults)

    async def story() -> None:
        sender = sender_on(chain, SendPolicy(poll_s=0.0, max_poll_s=0.0, stall_s=4.0, timeout_s=100_000.0))
        await asyncio.gather(*[sender.send(TARGET, value_wei=n + 1) for n in range(count)])

    asyncio.run(story())
    assert sorted(value_of(raw) for raw in chain.mined) == list(range(1, count + 1))
    assert [nonce_of(raw) for raw in chain.mined] == list(range(count))
