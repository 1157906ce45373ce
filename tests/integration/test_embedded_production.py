"""How blocks come about: together, in time, and with a clear end for each transaction, also when things fail."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.engine import Call
from steelyard.chain.embedded.pyevm import PyEvmEngine
from steelyard.chain.embedded.queries import load_header, load_queue, load_transaction
from steelyard.chain.embedded.receipts import MinedTransaction, SealedBlock
from steelyard.chain.embedded.settings import FUND_WEI, ChainSettings
from steelyard.chain.transaction import Transaction
from steelyard.errors import ChainError, Refusal
from steelyard.protocol.hashing import keccak
from steelyard.protocol.signing import SigningKey

KEYS = [SigningKey(bytes([i]) * 32) for i in range(1, 4)]
PROBE = json.loads((Path(__file__).parents[1] / "vectors" / "embedded_probe.json").read_text())["probe"]
PROBE_INIT = bytes.fromhex(PROBE["init"][2:])
FEE = 10**10


class Clock:
    """A wall clock that goes where it is told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def sign(nonce: int, *, who: int = 0, fee: int = FEE, tip: int = 1, **fields: Any) -> bytes:
    """Return a raw transaction, a transfer of nothing unless fields say otherwise."""
    whole: dict[str, Any] = {"gas": 21_000, "to": b"\x07" * 20, **fields}
    unsigned = Transaction(chain_id=31415, nonce=nonce, max_priority_fee_wei=tip, max_fee_wei=fee, **whole)
    return unsigned.sign(KEYS[who]).raw


def run(
    tmp_path: Path, story: Callable[[EmbeddedChain], Awaitable[None]], clock: Clock | None = None, **fields: Any
) -> None:
    """Run a story on a chain in this process, without heartbeat unless one is given."""

    async def main() -> None:
        funded = tuple(key.account for key in KEYS)
        settings = ChainSettings(db=tmp_path / "chain.sqlite", fund=funded, **{"heartbeat_s": 0, **fields})
        async with EmbeddedChain(settings, PyEvmEngine(), clock=clock or time.time) as chain:
            await story(chain)

    asyncio.run(main())


def mined(chain: EmbeddedChain, tx_hash: bytes) -> MinedTransaction:
    """Return a transaction that must be in a block."""
    found = load_transaction(chain.store.reader(), chain.chain_id, tx_hash)
    assert found is not None
    return found


def test_transactions_that_arrive_together_share_a_block(tmp_path: Path) -> None:
    """Requests side by side, of one account in any order or of several, land in one block or two."""

    async def story(chain: EmbeddedChain) -> None:
        raws = [sign(nonce) for nonce in range(20)][::-1] + [sign(nonce, who=1) for nonce in range(20)]
        hashes = await asyncio.gather(*(chain.submit(raw) for raw in raws))
        assert hashes == [keccak(raw) for raw in raws]
        await chain.mine()  # the reversed ones were queued until the first nonce came
        assert {mined(chain, tx_hash).block_number for tx_hash in hashes} <= {1, 2}
        assert chain.account(KEYS[0].account).nonce == chain.account(KEYS[1].account).nonce == 20
        assert load_queue(chain.store.reader(), chain.chain_id) == []

    run(tmp_path, story)


def test_heartbeat_seals_empty_blocks_and_time_never_falls(tmp_path: Path) -> None:
    """Without transactions blocks still come, and a wall clock that is set back doesn't take block time with it."""
    clock = Clock()
    sealed: list[SealedBlock] = []

    async def story(chain: EmbeddedChain) -> None:
        chain.listeners.add(sealed.append)
        await asyncio.sleep(0.12)
        clock.now += 100
        await asyncio.sleep(0.12)
        clock.now -= 5_000
        await asyncio.sleep(0.12)
        await chain.submit(sign(0))

    run(tmp_path, story, clock, heartbeat_s=0.04)
    times = [block.header.timestamp_s for block in sealed]
    assert len(sealed) >= 4
    assert times == sorted(times)
    assert {1_700_000_000, 1_700_000_100} == set(times)
    assert [block.header.number for block in sealed] == list(range(1, len(sealed) + 1))
    assert all(not block.transactions for block in sealed[:-1])
    assert len(sealed[-1].transactions) == 1


def test_increase_time_moves_the_next_block_and_adds_up(tmp_path: Path) -> None:
    """Steps taken at once add up, the next block is there, and calls for the next block see it too."""
    clock = Clock()

    async def story(chain: EmbeddedChain) -> None:
        assert sorted(await asyncio.gather(chain.increase_time(10), chain.increase_time(20))) == [10, 30]
        assert chain.head.timestamp_s == 1_700_000_000
        assert chain.next_context().timestamp_s == 1_700_000_030
        await chain.mine()
        assert chain.head.timestamp_s == 1_700_000_030
        assert chain.store.meta("time_offset_s") == "30"

    run(tmp_path, story, clock)


def test_replaced_before_its_block_is_told_so(tmp_path: Path) -> None:
    """Of two transactions with one nonce the better paid is mined, and the other's sender hears of it."""

    async def story(chain: EmbeddedChain) -> None:
        cheap, dear = sign(0, tip=100), sign(0, fee=FEE * 2, tip=200, value_wei=1)
        first, second = await asyncio.gather(chain.submit(cheap), chain.submit(dear), return_exceptions=True)
        assert isinstance(first, Refusal)
        assert first.message == f"replaced by 0x{keccak(dear).hex()}"
        assert second == keccak(dear)
        with pytest.raises(Refusal, match="nonce too low: next nonce 1, tx nonce 0"):
            await chain.submit(cheap)

    run(tmp_path, story)


def test_replacement_of_what_is_being_sealed_comes_too_late(tmp_path: Path) -> None:
    """A transaction that the block in the making holds is acknowledged as mined; the better paid one hears that."""

    async def story(chain: EmbeddedChain) -> None:
        created = mined(chain, await chain.submit(sign(0, to=None, data=PROBE_INIT, gas=500_000))).created
        spin = (5).to_bytes(32, "big")
        first = asyncio.create_task(chain.submit(sign(1, to=created, data=spin, gas=2_000_000, tip=100)))
        await asyncio.sleep(0.02)  # long enough to be in the making, far too short to be done
        assert not first.done()
        second = asyncio.create_task(chain.submit(sign(1, fee=FEE * 2, tip=200)))
        assert mined(chain, await first).block_number == 2
        with pytest.raises(Refusal, match="nonce too low"):
            await second

    run(tmp_path, story)


def test_queued_transaction_is_replaced_and_mined_once_the_gap_closes(tmp_path: Path) -> None:
    """A better paid transaction takes a queued one's place, in the database too."""

    async def story(chain: EmbeddedChain) -> None:
        cheap, dear = sign(1, tip=100), sign(1, fee=FEE * 2, tip=200)
        await chain.submit(cheap)
        await chain.submit(dear)
        assert [tx.raw for tx in load_queue(chain.store.reader(), chain.chain_id)] == [dear]
        await chain.submit(sign(0))
        await chain.mine()
        assert mined(chain, keccak(dear)).status == 1
        assert load_transaction(chain.store.reader(), chain.chain_id, keccak(cheap)) is None
        assert load_queue(chain.store.reader(), chain.chain_id) == []

    run(tmp_path, story)


def test_money_that_runs_out_within_a_block_refuses_one_and_queues_the_next(tmp_path: Path) -> None:
    """Each of three is affordable alone: the first is mined, the second refused, the third waits behind the gap."""

    async def story(chain: EmbeddedChain) -> None:
        much = FUND_WEI * 6 // 10
        raws = [sign(0, value_wei=much), sign(1, value_wei=much), sign(2)]
        answers = await asyncio.gather(*(chain.submit(raw) for raw in raws), return_exceptions=True)
        assert answers[0] == keccak(raws[0])
        assert isinstance(answers[1], Refusal)
        assert answers[1].message.startswith("insufficient funds for gas * price + value: balance ")
        assert answers[2] == keccak(raws[2])
        assert [tx.raw for tx in load_queue(chain.store.reader(), chain.chain_id)] == [raws[2]]
        await chain.submit(sign(1))
        await chain.mine()
        assert mined(chain, keccak(raws[2])).status == 1

    run(tmp_path, story)


def test_transaction_below_the_base_fee_waits_until_it_falls(tmp_path: Path) -> None:
    """A cap below the base fee is taken in and mined when empty blocks have brought the base fee down."""

    async def story(chain: EmbeddedChain) -> None:
        poor = sign(0, fee=7 * 10**8, tip=0)
        assert await chain.submit(poor) == keccak(poor)
        for _ in range(4):
            await chain.mine()
        assert mined(chain, keccak(poor)).block_number == 3
        assert chain.head.base_fee_wei <= 7 * 10**8

    run(tmp_path, story)


def test_failed_commit_is_told_and_the_chain_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses a block fails those who wait; nothing of the block stays, and the next one is sealed."""
    monkeypatch.setattr("steelyard.chain.embedded.producer.RETRY_AFTER_FAULT_S", 0.01)

    async def story(chain: EmbeddedChain) -> None:
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            patch.setattr(chain.store, "commit_block", full)
            with pytest.raises(ChainError, match="database or disk is full"):
                await chain.submit(sign(0))
            with pytest.raises(ChainError, match="disk is full"):
                await chain.mine()
        assert chain.head.number == 0
        assert chain.pooled(keccak(sign(0))) is None
        assert await chain.submit(sign(0)) == keccak(sign(0))
        assert chain.head.number == 1

    run(tmp_path, story)


def test_transaction_that_breaks_the_engine_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine fails on one transaction, that one is refused with a fault and its neighbours are mined."""

    async def story(chain: EmbeddedChain) -> None:
        from steelyard.chain.embedded.pyevm_state import PlainExecutor

        whole = PlainExecutor.build_evm_message

        def breaks(executor: Any, transaction: Any) -> Any:
            if transaction.value == 666:
                raise RecursionError("too deep")
            return whole(executor, transaction)

        monkeypatch.setattr(PlainExecutor, "build_evm_message", breaks)
        raws = [sign(0), sign(0, who=1, value_wei=666), sign(0, who=2)]
        answers = await asyncio.gather(*(chain.submit(raw) for raw in raws), return_exceptions=True)
        assert [answers[0], answers[2]] == [keccak(raws[0]), keccak(raws[2])]
        assert isinstance(answers[1], Refusal)
        assert "the engine failed on it: RecursionError (fault " in answers[1].message
        assert [mined(chain, keccak(raws[i])).status for i in (0, 2)] == [1, 1]

    run(tmp_path, story)


def test_reads_stay_quick_while_a_heavy_block_is_executed(tmp_path: Path) -> None:
    """While the EVM works through millions of gas, and a call loops until its time is up, others are answered."""

    async def story(chain: EmbeddedChain) -> None:
        created = mined(chain, await chain.submit(sign(0, to=None, data=PROBE_INIT, gas=500_000))).created
        assert created is not None
        spin = (5).to_bytes(32, "big")
        call = Call(sender=bytes(20), to=created, gas=30_000_000, data=spin)
        head = chain.head
        heavy = asyncio.create_task(chain.submit(sign(1, to=created, data=spin, gas=4_000_000)))
        nodes, context = chain.store.nodes, chain.context_of(head)
        looping = asyncio.create_task(
            chain.read(chain.engine.call, nodes, head.state_root, context, call, timeout_s=1.0)
        )
        waits = []
        for _ in range(20):
            started = time.monotonic()
            await chain.read(load_header, chain.store.reader(), 0)
            chain.account(KEYS[1].account)
            await asyncio.sleep(0)
            waits.append(time.monotonic() - started)
        assert not heavy.done(), "the block was too light to prove anything"
        assert sorted(waits)[10] < 0.1
        assert mined(chain, await heavy).status == 0
        with pytest.raises(Refusal, match="execution aborted"):
            await looping

    run(tmp_path, story)


def test_full_block_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    """What a block has no gas for is mined in the next one, in nonce order."""

    async def story(chain: EmbeddedChain) -> None:
        raws = [sign(nonce, gas=14_000_000) for nonce in range(3)]
        hashes = await asyncio.gather(*(chain.submit(raw) for raw in raws))
        assert [mined(chain, tx_hash).block_number for tx_hash in hashes] == [1, 1, 1]  # what counts is what was used
        raws = [sign(nonce, gas=30_000_000) for nonce in (3, 4)]
        hashes = await asyncio.gather(*(chain.submit(raw) for raw in raws))
        assert [mined(chain, tx_hash).block_number for tx_hash in hashes] == [2, 3]

    run(tmp_path, story)


def test_full_sync_is_what_sqlite_is_told(tmp_path: Path) -> None:
    """NORMAL by default, FULL when asked for; always WAL."""
    seen = {}

    async def story(chain: EmbeddedChain) -> None:
        writer = chain.store._writer
        seen[writer.execute("PRAGMA synchronous").fetchone()[0]] = writer.execute("PRAGMA journal_mode").fetchone()[0]

    run(tmp_path, story)
    run(tmp_path, story, is_full_sync=True)
    assert seen == {1: "wal", 2: "wal"}


def test_stopping_chain_fails_who_waits(tmp_path: Path) -> None:
    """A transaction that isn't committed when the chain stops is not acknowledged."""

    async def main() -> None:
        settings = ChainSettings(db=tmp_path / "chain.sqlite", fund=(KEYS[0].account,), heartbeat_s=0)
        chain = EmbeddedChain(settings, PyEvmEngine())
        async with chain:
            created = mined(chain, await chain.submit(sign(0, to=None, data=PROBE_INIT, gas=500_000))).created
            spin = (5).to_bytes(32, "big")
            heavy = asyncio.create_task(chain.submit(sign(1, to=created, data=spin, gas=1_000_000)))
            await asyncio.sleep(0.02)
        with pytest.raises(ChainError, match="the chain is stopping"):
            await heavy

    asyncio.run(main())
