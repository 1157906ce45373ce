"""Transactions that no block holds yet: which may be mined now, which wait, which are refused.

1. Per account, nonces are mined in order; a gap makes the later ones wait until it closes.
2. A transaction of a nonce that is taken replaces the other only with both fees a tenth higher.
3. Across accounts, first come, first mined.
4. Nothing here reads a clock, a socket or a file; the chain tells it what was mined.

Law: docs/spec/embedded-chain.md, section 4.  Refusals are worded as geth words them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steelyard.chain.embedded.engine import Account
from steelyard.chain.embedded.transactions import MAX_INITCODE_BYTES, Transaction, floor_gas
from steelyard.errors import Refusal

MAX_POOLED = 8_192
MAX_GAP = 1_024  # how far ahead of its account's nonce a transaction may wait
PRICE_BUMP_PERCENT = 10  # geth's --txpool.pricebump


@dataclass(slots=True)
class _Pooled:
    transaction: Transaction
    arrival: int


class Mempool:
    """The transactions of all accounts, by account and nonce."""

    def __init__(self, *, max_pooled: int = MAX_POOLED) -> None:
        self._max_pooled = max_pooled
        self._by_account: dict[bytes, dict[int, _Pooled]] = {}
        self._by_hash: dict[bytes, Transaction] = {}
        self._nonces: dict[bytes, int] = {}  # of accounts with pooled transactions, as of the newest block
        self._ready_ends: dict[bytes, tuple[int, int]] = {}  # base fee, first nonce that isn't ready at it
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._by_hash)

    def get(self, tx_hash: bytes) -> Transaction | None:
        """Return a pooled transaction by hash."""
        return self._by_hash.get(tx_hash)

    def add(self, tx: Transaction, account: Account, *, gas_limit: int) -> Transaction | None:
        """Take in a transaction; return the one that it replaces, if any.

        Args:
            tx: decoded; its signature is good.
            account: its sender's, as of the newest block.
            gas_limit: of a block.

        Raises:
            Refusal: already known, no block could hold it, its nonce used, not funded, underpriced as a replacement,
                or no room.
        """
        if tx.hash in self._by_hash:
            raise Refusal("already known", code="already_known")
        _check_fields(tx, gas_limit)
        account_nonce = account.nonce
        if tx.nonce < account_nonce:
            raise Refusal(
                f"nonce too low: next nonce {account_nonce}, tx nonce {tx.nonce}", code="nonce_too_low", param="nonce"
            )
        if tx.nonce - account_nonce > MAX_GAP:
            raise Refusal(
                f"nonce too high: tx nonce {tx.nonce} is more than {MAX_GAP} above next nonce {account_nonce}",
                code="nonce_too_high",
                param="nonce",
            )
        if account.balance_wei < tx.max_cost_wei:
            raise insufficient_funds(tx, account.balance_wei)
        slots = self._by_account.get(tx.sender, {})
        taken = slots.get(tx.nonce)
        if taken is not None:
            _require_bump(taken.transaction, tx)
            del self._by_hash[taken.transaction.hash]
        elif len(self._by_hash) >= self._max_pooled:
            raise Refusal("txpool is full", code="txpool_full")
        self._arrivals += 1
        slots[tx.nonce] = _Pooled(tx, self._arrivals)
        self._by_account[tx.sender] = slots
        self._by_hash[tx.hash] = tx
        if taken is not None or self._nonces.get(tx.sender) != account_nonce:
            self._ready_ends.pop(tx.sender, None)
        self._nonces[tx.sender] = account_nonce
        return None if taken is None else taken.transaction

    def remove(self, tx: Transaction) -> None:
        """Forget a transaction that can't be mined."""
        if self._by_hash.pop(tx.hash, None) is None:
            return
        self._ready_ends.pop(tx.sender, None)
        slots = self._by_account[tx.sender]
        del slots[tx.nonce]
        if not slots:
            del self._by_account[tx.sender], self._nonces[tx.sender]

    def take_mined(self, mined: Iterable[Transaction]) -> list[Transaction]:
        """Forget what a block holds; return what can never be mined any more, since its nonce is used."""
        next_nonces: dict[bytes, int] = {}
        for tx in mined:
            self.remove(tx)
            next_nonces[tx.sender] = tx.nonce + 1
        passed = []
        for account, nonce in next_nonces.items():
            if account not in self._by_account:
                continue
            self._nonces[account] = nonce
            passed += [entry.transaction for at, entry in self._by_account[account].items() if at < nonce]
        for tx in passed:
            self.remove(tx)
        return passed

    def executable(self, base_fee_wei: int) -> list[Transaction]:
        """Return what may be mined in a block of that base fee, in the order to mine it."""
        ordered: list[tuple[int, int, Transaction]] = []
        for account, slots in self._by_account.items():
            latest = 0  # a transaction can't come before the one that its nonce follows
            for nonce in range(self._nonces[account], self._ready_end(account, base_fee_wei)):
                latest = max(latest, slots[nonce].arrival)
                ordered.append((latest, nonce, slots[nonce].transaction))
        return [tx for _, _, tx in sorted(ordered, key=lambda entry: entry[:2])]

    def is_executable(self, tx: Transaction, base_fee_wei: int) -> bool:
        """Tell whether a pooled transaction may be mined in a block of that base fee."""
        return tx.nonce < self._ready_end(tx.sender, base_fee_wei)

    def next_nonce(self, account: bytes, account_nonce: int) -> int:
        """Return the nonce that an account's next transaction should take, after those that are pooled in a row."""
        slots = self._by_account.get(account, {})
        while account_nonce in slots:
            account_nonce += 1
        return account_nonce

    def _ready_end(self, account: bytes, base_fee_wei: int) -> int:
        known_fee, nonce = self._ready_ends.get(account, (-1, 0))
        if known_fee != base_fee_wei:
            nonce = self._nonces[account]
        slots = self._by_account[account]
        while nonce in slots and slots[nonce].transaction.max_fee_per_gas >= base_fee_wei:
            nonce += 1
        self._ready_ends[account] = (base_fee_wei, nonce)
        return nonce


def insufficient_funds(tx: Transaction, balance_wei: int) -> Refusal:
    """Return the refusal of a transaction that its sender can't pay for."""
    return Refusal(
        f"insufficient funds for gas * price + value: balance {balance_wei}, tx cost {tx.max_cost_wei}, "
        f"overshot {tx.max_cost_wei - balance_wei}",
        code="insufficient_funds",
    )


def _check_fields(tx: Transaction, gas_limit: int) -> None:
    if tx.gas > gas_limit:
        raise Refusal(f"exceeds block gas limit: tx gas {tx.gas}, block gas limit {gas_limit}", code="gas_limit")
    if not tx.to and len(tx.data) > MAX_INITCODE_BYTES:
        raise Refusal(
            f"max initcode size exceeded: code size {len(tx.data)}, limit {MAX_INITCODE_BYTES}", code="initcode_size"
        )
    if tx.max_priority_fee_per_gas > tx.max_fee_per_gas:
        raise Refusal(
            "max priority fee per gas higher than max fee per gas: "
            f"maxPriorityFeePerGas: {tx.max_priority_fee_per_gas}, maxFeePerGas: {tx.max_fee_per_gas}",
            code="tip_above_fee_cap",
        )
    if tx.gas < tx.intrinsic_gas:
        raise Refusal(f"intrinsic gas too low: gas {tx.gas}, minimum needed {tx.intrinsic_gas}", code="intrinsic_gas")
    floor = floor_gas(tx.data)
    if tx.gas < floor:
        raise Refusal(
            f"insufficient gas for floor data gas cost: gas {tx.gas}, minimum needed {floor}", code="intrinsic_gas"
        )
    if tx.nonce >= 2**64 - 1:
        raise Refusal("nonce has max value", code="nonce_max")


def _require_bump(old: Transaction, new: Transaction) -> None:
    def enough(old_fee: int, new_fee: int) -> bool:
        return new_fee > old_fee and new_fee * 100 >= old_fee * (100 + PRICE_BUMP_PERCENT)

    if not enough(old.max_fee_per_gas, new.max_fee_per_gas) or not enough(
        old.max_priority_fee_per_gas, new.max_priority_fee_per_gas
    ):
        raise Refusal(
            f"replacement transaction underpriced: both fees must be {PRICE_BUMP_PERCENT}% above those of "
            f"0x{old.hash.hex()}",
            code="replacement_underpriced",
        )
