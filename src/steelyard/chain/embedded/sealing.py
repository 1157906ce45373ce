"""One block: from a parent and what waits to be mined, to everything that is committed.

1. Transactions stand in the order given; one that may not stand here is left out with its reason, and costs nothing.
2. A block is full when its gas or its time is: the rest is left for the next, so that nobody waits long for a commit.
3. An empty block changes no state, and doesn't wake the engine.

Law: docs/spec/embedded-chain.md, section 4.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from steelyard.chain.embedded.engine import BlockContext, Engine, Execution, OpenBlock
from steelyard.chain.embedded.header import COINBASE, EMPTY_TRIE_ROOT, GENESIS_BASE_FEE_WEI, Header, next_base_fee
from steelyard.chain.embedded.nodes import NewNodes
from steelyard.chain.embedded.receipts import (
    MinedLog,
    MinedTransaction,
    SealedBlock,
    block_size_bytes,
    encode_receipt,
    logs_bloom,
    merge_blooms,
)
from steelyard.chain.embedded.transactions import Transaction
from steelyard.chain.embedded.tries import ordered_trie_root
from steelyard.errors import Refusal
from steelyard.protocol.hashing import keccak

BLOCK_TIME_BUDGET_S = 0.25  # of execution, after which a block takes no further transaction

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BuiltBlock:
    """A block ready to be committed, and what was left out of it for good."""

    block: SealedBlock
    refused: tuple[tuple[Transaction, Refusal], ...]


def next_context(
    parent: Header, chain_id: int, now_s: int, ancestor_hash: Callable[[int], bytes | None]
) -> BlockContext:
    """Return what the block after `parent` looks like from inside; its time never lies before the parent's."""
    return BlockContext(
        chain_id=chain_id,
        number=parent.number + 1,
        timestamp_s=max(now_s, parent.timestamp_s),
        base_fee_wei=next_base_fee(parent),
        gas_limit=parent.gas_limit,
        coinbase=COINBASE,
        mix_hash=keccak(parent.hash),
        ancestor_hash=ancestor_hash,
    )


def context_of(header: Header, chain_id: int, ancestor_hash: Callable[[int], bytes | None]) -> BlockContext:
    """Return what a sealed block looks like from inside, for calls over the state that it left."""
    return BlockContext(
        chain_id=chain_id,
        number=header.number,
        timestamp_s=header.timestamp_s,
        base_fee_wei=header.base_fee_wei,
        gas_limit=header.gas_limit,
        coinbase=header.coinbase,
        mix_hash=header.mix_hash,
        ancestor_hash=ancestor_hash,
    )


def build_block(
    engine: Engine, nodes: NewNodes, parent: Header, context: BlockContext, transactions: Sequence[Transaction]
) -> BuiltBlock:
    """Execute transactions on top of `parent`, writing new state into `nodes`; nothing is committed yet."""
    done: list[tuple[Transaction, Execution]] = []
    refused: list[tuple[Transaction, Refusal]] = []
    state_root = parent.state_root
    if transactions:
        open_block = engine.open_block(nodes, parent.state_root, context)
        _execute_all(open_block, context.gas_limit, transactions, done, refused)
        if done:
            state_root = open_block.seal()
    return BuiltBlock(_seal(parent, context, state_root, done), tuple(refused))


def _execute_all(
    open_block: OpenBlock,
    gas_limit: int,
    transactions: Sequence[Transaction],
    done: list[tuple[Transaction, Execution]],
    refused: list[tuple[Transaction, Refusal]],
) -> None:
    gas_used = 0
    skipped: set[bytes] = set()  # accounts whose later nonces can't follow here any more
    deadline = time.monotonic() + BLOCK_TIME_BUDGET_S
    for tx in transactions:
        if done and time.monotonic() > deadline:
            return
        if tx.sender in skipped:
            continue
        if gas_used + tx.gas > gas_limit:
            skipped.add(tx.sender)
            continue
        try:
            execution = open_block.apply(tx)
        except Refusal as refusal:
            refused.append((tx, refusal))
            skipped.add(tx.sender)
        except Exception as error:  # one transaction that the engine can't digest must not stop the chain
            fault = tx.hash.hex()[:16]
            log.exception("transaction_faulted", fault=fault, transaction=tx.hash.hex())
            refused.append((tx, Refusal(f"the engine failed on it: {type(error).__name__} (fault {fault})")))
            skipped.add(tx.sender)
        else:
            gas_used += execution.gas_used
            done.append((tx, execution))


def _seal(
    parent: Header, context: BlockContext, state_root: bytes, done: Sequence[tuple[Transaction, Execution]]
) -> SealedBlock:
    mined: list[MinedTransaction] = []
    receipts: list[bytes] = []
    blooms: list[bytes] = []
    gas_used = first_log = 0
    for position, (tx, execution) in enumerate(done):
        gas_used += execution.gas_used
        bloom = logs_bloom(execution.logs)
        blooms.append(bloom)
        receipts.append(encode_receipt(tx.type_id, execution.status, gas_used, bloom, execution.logs))
        mined.append(
            MinedTransaction(
                transaction=tx,
                block_number=context.number,
                position=position,
                status=execution.status,
                gas_used=execution.gas_used,
                cumulative_gas_used=gas_used,
                first_log=first_log,
            )
        )
        first_log += len(execution.logs)
    header = Header(
        number=context.number,
        parent_hash=parent.hash,
        state_root=state_root,
        transactions_root=ordered_trie_root([tx.raw for tx, _ in done]),
        receipts_root=ordered_trie_root(receipts),
        bloom=merge_blooms(blooms),
        gas_limit=context.gas_limit,
        gas_used=gas_used,
        timestamp_s=context.timestamp_s,
        base_fee_wei=context.base_fee_wei,
    ).seal()
    logs = [
        MinedLog(
            log=entry,
            block_number=header.number,
            block_hash=header.hash,
            block_timestamp_s=header.timestamp_s,
            transaction_hash=tx.hash,
            transaction_position=position,
            index=mined[position].first_log + i,
        )
        for position, (tx, execution) in enumerate(done)
        for i, entry in enumerate(execution.logs)
    ]
    return SealedBlock(header, tuple(mined), tuple(logs), block_size_bytes(header, [tx for tx, _ in done]))


def build_genesis(
    engine: Engine,
    nodes: NewNodes,
    balances_wei: Mapping[bytes, int],
    codes: Mapping[bytes, bytes] | None = None,
    *,
    gas_limit: int,
    now_s: int,
) -> SealedBlock:
    """Return block 0, with these balances and these contracts by address; its state is written into `nodes`."""
    header = Header(
        number=0,
        parent_hash=bytes(32),
        state_root=engine.build_genesis(nodes, balances_wei, codes),
        transactions_root=EMPTY_TRIE_ROOT,
        receipts_root=EMPTY_TRIE_ROOT,
        bloom=merge_blooms(()),
        gas_limit=gas_limit,
        gas_used=0,
        timestamp_s=now_s,
        base_fee_wei=GENESIS_BASE_FEE_WEI,
    ).seal()
    return SealedBlock(header, (), (), block_size_bytes(header, ()))
