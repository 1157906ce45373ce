"""py-evm in process: its Prague state transition, driven directly.

Blocks are not sealed and transactions not signed, which saves nine tenths of the time; state, gas, refunds and the
floor price of calldata (EIP-7623) are py-evm's own.
"""

from __future__ import annotations

from eth.constants import BLANK_ROOT_HASH, CREATE_CONTRACT_ADDRESS, ZERO_HASH32
from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.state import PragueState
from eth.vm.message import Message
from eth.vm.spoof import SpoofTransaction
from tests.contracts.evm import CHAIN_ID, GAS_LIMIT, GENESIS_TIME, CallReverted, RawLog, RawReceipt

Mark = tuple[bytes, int, int, int]


class PyEvm:
    """An `Evm` on py-evm."""

    kind = "pyevm"

    def __init__(self) -> None:
        self._db = AtomicDB()
        self._time, self._number, self._chain_id = GENESIS_TIME, 1, CHAIN_ID
        self._state = PragueState(self._db, self._context(), BLANK_ROOT_HASH)

    def send(self, sender: bytes, to: bytes | None, data: bytes) -> RawReceipt:
        """Run a transaction in a block of its own; `to` None creates a contract."""
        self._seal(1)
        state = self._state
        state.lock_changes()
        unsigned = PragueVM.create_unsigned_transaction(
            nonce=state.get_nonce(sender),
            gas_price=0,
            gas=GAS_LIMIT,
            to=CREATE_CONTRACT_ADDRESS if to is None else to,
            value=0,
            data=data,
        )
        transaction = SpoofTransaction(unsigned, from_=sender, y_parity=0, r=1, s=1)
        computation = state.apply_transaction(transaction)
        if computation.is_error:
            raise CallReverted(computation.output)
        gas_used = GAS_LIMIT - computation.get_gas_remaining()
        refund = min(computation.get_gas_refund(), gas_used // 5)  # at most a fifth comes back (EIP-3529)
        logs = tuple(
            RawLog(address, tuple(topic.to_bytes(32, "big") for topic in topics), data)
            for address, topics, data in computation.get_log_entries()
        )
        created = computation.msg.storage_address if to is None else None
        return RawReceipt(gas_used - refund + computation.data_floor_gas, logs, created)

    def call(self, sender: bytes, to: bytes, data: bytes) -> bytes:
        """Return what a call would return now, changing nothing."""
        state = self._state
        mark = state.snapshot()
        code = state.get_code(to)
        message = Message(gas=GAS_LIMIT, to=to, sender=sender, value=0, data=data, code=code)
        context = state.get_transaction_context_class()(gas_price=0, origin=sender)
        computation = state.computation_class.apply_message(state, message, context)
        state.revert(mark)
        if computation.is_error:
            raise CallReverted(computation.output)
        return computation.output

    def now(self) -> int:
        """Return the last block's Unix time in seconds."""
        return self._time

    def advance(self, seconds: int) -> None:
        """Add an empty block that many seconds after the last."""
        self._seal(seconds)

    def snapshot(self) -> Mark:
        """Return a mark of the present state and clock."""
        self._state.lock_changes()
        self._state.persist()
        return self._state.state_root, self._time, self._number, self._chain_id

    def revert(self, mark: Mark) -> None:
        """Go back to a mark; it stays good."""
        root, self._time, self._number, self._chain_id = mark
        self._state = PragueState(self._db, self._context(), root)

    def set_code(self, address: bytes, code: bytes) -> None:
        """Put runtime code at an address, for tests that need a hostile contract."""
        self._state.set_code(address, code)

    def set_chain_id(self, chain_id: int) -> None:
        """Go on under another chain id, as after a fork; `revert` ends it."""
        self._chain_id = chain_id
        self._seal(1)

    def close(self) -> None:
        """Hold nothing."""

    def _seal(self, seconds: int) -> None:
        self._time += seconds
        self._number += 1
        self._state.execution_context = self._context()

    def _context(self) -> ExecutionContext:
        return ExecutionContext(
            coinbase=b"\xc0" * 20,
            timestamp=self._time,
            block_number=self._number,
            difficulty=0,
            mix_hash=ZERO_HASH32,
            gas_limit=GAS_LIMIT,
            prev_hashes=(),
            chain_id=self._chain_id,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )
