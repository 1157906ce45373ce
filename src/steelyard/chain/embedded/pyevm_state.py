"""py-evm's Prague state and instructions, with the parts replaced that a chain kept in SQLite does better without.

1. What Prague's system contracts would record (EIP-2935, EIP-4788) is left out: without a beacon chain they hold
   nothing, and they would write eight kilobytes of state into every empty block.
2. A call can be stopped by time: py-evm knows gas alone, and 30 million gas of a tight loop last half a minute.
   Every loop jumps or calls, so the clock is read at the two jump instructions and where a frame begins.
3. py-evm's libraries raise the interpreter's recursion limit to 100,000, at which a deeply nested JSON document
   overflows the C stack and kills the process; it is put back to what 1,024 nested calls need.
4. What py-evm checks and formats for its log on each transaction is done elsewhere, or not at all.

Used by pyevm.py alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from eth.db.atomic import AtomicDB
from eth.db.backends.base import BaseDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.state import PragueState, PragueTransactionExecutor
from eth.vm.message import Message
from eth.vm.opcode_values import JUMP, JUMPI

from steelyard.chain.embedded.engine import BlockContext, Nodes
from steelyard.chain.embedded.transactions import contract_address

RECURSION_LIMIT = 12_288  # py-evm's own number for 1,024 nested calls, before py-ecc multiplied it

sys.setrecursionlimit(RECURSION_LIMIT)


class TimeIsUp(Exception):  # a signal between two modules, never an answer
    """A call ran out of its wall-clock time."""


class TimedComputation(PragueComputation):  # type: ignore[misc]  # py-evm is followed as Any
    """A frame of execution that looks at the clock when it begins and at each jump."""

    def __init__(self, state: Any, message: Any, transaction_context: Any) -> None:
        if time.monotonic() > state.deadline:
            raise TimeIsUp
        super().__init__(state, message, transaction_context)

    @classmethod
    def consume_initcode_gas_cost(cls, computation: Any) -> None:
        """Ours is part of `intrinsic_gas`, where EIP-3860 puts it."""


def _timed(instruction: Callable[..., Any]) -> Callable[..., Any]:
    def jump(computation: Any) -> Any:
        if time.monotonic() > computation.state.deadline:
            raise TimeIsUp
        return instruction(computation=computation)

    return jump


TimedComputation.opcodes = {
    **PragueComputation.opcodes,
    JUMP: _timed(PragueComputation.opcodes[JUMP]),
    JUMPI: _timed(PragueComputation.opcodes[JUMPI]),
}


class PlainExecutor(PragueTransactionExecutor):  # type: ignore[misc]  # py-evm is followed as Any
    """What turns a transaction into its outermost frame."""

    def validate_transaction(self, transaction: Any) -> None:
        """Ours is `_check`, done before."""

    def build_evm_message(self, transaction: Any) -> Any:
        """Buy the gas and build the outermost message, without py-evm's formatting of every transaction for a log."""
        state = self.vm_state
        state.delta_balance(transaction.sender, -transaction.gas * state.get_gas_price(transaction))
        nonce = state.get_nonce(transaction.sender)
        state.set_nonce(transaction.sender, nonce + 1)
        if transaction.to:
            code, delegation = self.get_code_at_address(transaction.to)
            created, data = None, transaction.data
        else:
            code, delegation = transaction.data, None
            created, data = contract_address(transaction.sender, nonce), b""
        return Message(
            gas=transaction.gas - transaction.intrinsic_gas,
            to=transaction.to,
            sender=transaction.sender,
            value=transaction.value,
            data=data,
            code=code,
            create_address=created,
            is_delegation=delegation is not None,
        )


class EmbeddedState(PragueState):  # type: ignore[misc]  # py-evm is followed as Any
    """The journalled state of one block or call; `deadline` is on the monotonic clock."""

    computation_class = TimedComputation
    transaction_executor_class = PlainExecutor
    deadline = float("inf")

    def set_system_contracts(self) -> None:
        """None: see rule 1."""


class NodeDb(BaseDB):  # type: ignore[misc]  # py-evm is followed as Any
    """Our nodes, in the shape of py-evm's databases."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    def __getitem__(self, key: bytes) -> bytes:
        return self.nodes[key]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.nodes[key] = value

    def __delitem__(self, key: bytes) -> None:
        raise KeyError(key)  # nodes are never taken away

    def _exists(self, key: bytes) -> bool:
        try:
            self.nodes[key]
        except KeyError:
            return False
        return True


def open_state(nodes: Nodes, root: bytes, context: BlockContext, *, base_fee_wei: int | None = None) -> Any:
    """Return py-evm's state at a root; `base_fee_wei` overrides the block's, for calls that pay nothing."""
    execution_context = ExecutionContext(
        coinbase=context.coinbase,
        timestamp=context.timestamp_s,
        block_number=context.number,
        difficulty=0,
        mix_hash=context.mix_hash,
        gas_limit=context.gas_limit,
        prev_hashes=_ancestors(context),
        chain_id=context.chain_id,
        base_fee_per_gas=context.base_fee_wei if base_fee_wei is None else base_fee_wei,
        excess_blob_gas=0,
    )
    return EmbeddedState(AtomicDB(NodeDb(nodes)), execution_context, root)


def _ancestors(context: BlockContext) -> Iterator[bytes]:
    for number in range(context.number - 1, max(context.number - 257, -1), -1):
        block_hash = context.ancestor_hash(number)
        if block_hash is None:
            return
        yield block_hash
