"""The pool: nonces in order, gaps wait, replacements pay more, refusals in geth's words."""

from __future__ import annotations

import pytest

from steelyard.chain.embedded.engine import Account
from steelyard.chain.embedded.mempool import MAX_GAP, Mempool
from steelyard.chain.embedded.transactions import Transaction, decode_transaction
from steelyard.chain.transaction import Transaction as Unsigned
from steelyard.errors import Refusal
from steelyard.protocol.signing import SigningKey

KEYS = [SigningKey(bytes([i]) * 32) for i in range(1, 4)]
RICH = 10**24
GAS_LIMIT = 30_000_000


def tx(nonce: int, *, who: int = 0, fee: int = 100, tip: int = 10, gas: int = 21_000, value: int = 0) -> Transaction:
    """Return a signed transfer."""
    unsigned = Unsigned(
        chain_id=1,
        nonce=nonce,
        max_priority_fee_wei=tip,
        max_fee_wei=fee,
        gas=gas,
        to=b"\x07" * 20,
        value_wei=value,
    )
    return decode_transaction(unsigned.sign(KEYS[who]).raw, 1)


def pool_of(*transactions: Transaction, account_nonce: int = 0, pool: Mempool | None = None) -> Mempool:
    """Return a pool that took these in."""
    pool = Mempool() if pool is None else pool
    for one in transactions:
        pool.add(one, Account(account_nonce, RICH), gas_limit=GAS_LIMIT)
    return pool


def test_executable_gap_waits_until_it_closes() -> None:
    """What lies behind a missing nonce is not executable, and is once the nonce comes."""
    first, second, fourth = tx(0), tx(1), tx(3)
    pool = pool_of(fourth, first, second)
    assert pool.executable(1) == [first, second]
    assert not pool.is_executable(fourth, 1)
    assert pool.next_nonce(KEYS[0].account, 0) == 2
    third = tx(2)
    pool_of(third, pool=pool)
    assert pool.executable(1) == [first, second, third, fourth]
    assert pool.is_executable(fourth, 1)
    assert pool.next_nonce(KEYS[0].account, 0) == 4


def test_executable_accounts_take_turns_by_arrival() -> None:
    """First come, first mined across accounts, never before an earlier nonce of the same account."""
    a1, b0, a0, b1 = tx(1), tx(0, who=1), tx(0), tx(1, who=1)
    assert pool_of(a1, b0, a0, b1).executable(1) == [b0, a0, a1, b1]


def test_executable_low_fee_holds_back_what_follows() -> None:
    """A transaction whose cap lies below the base fee waits, and with it the account's later ones."""
    first, poor, third = tx(0), tx(1, fee=50), tx(2)
    pool = pool_of(first, poor, third)
    assert pool.executable(51) == [first]
    assert not pool.is_executable(third, 51)
    assert pool.executable(50) == [first, poor, third]
    assert pool.is_executable(third, 50)


def test_take_mined_moves_on_and_names_what_can_never_be_mined() -> None:
    """Mined nonces leave, the rest stays executable, and another transaction of a used nonce is handed back."""
    pool = pool_of(tx(0), tx(1), tx(2))
    assert pool.take_mined([tx(0)]) == []
    assert [one.nonce for one in pool.executable(1)] == [1, 2]
    other = tx(1, value=5)  # mined although it isn't the one in the pool
    assert pool.take_mined([other]) == [tx(1)]
    assert [one.nonce for one in pool.executable(1)] == [2]
    pool.take_mined([tx(2)])
    assert len(pool) == 0
    assert pool.executable(1) == []


def test_replacement_needs_both_fees_a_tenth_higher() -> None:
    """The same nonce is replaced by one that pays ten percent more in both fees, and by nothing else."""
    old = tx(0)
    pool = pool_of(old)
    for fee, tip in ((100, 10), (109, 11), (110, 10), (200, 10)):
        with pytest.raises(Refusal, match="replacement transaction underpriced"):
            pool_of(tx(0, fee=fee, tip=tip, value=1), pool=pool)
    better = tx(0, fee=110, tip=11)
    assert pool.add(better, Account(0, RICH), gas_limit=GAS_LIMIT) is old
    assert pool.executable(1) == [better]
    assert pool.get(old.hash) is None
    assert pool.get(better.hash) is better


def test_removed_transaction_leaves_a_gap() -> None:
    """What is removed holds back the nonces after it."""
    pool = pool_of(tx(0), tx(1), tx(2))
    pool.remove(tx(1))
    pool.remove(tx(1))
    assert [one.nonce for one in pool.executable(1)] == [0]


@pytest.mark.parametrize(
    ("one", "account", "words"),
    [
        (tx(2), Account(3, RICH), "nonce too low: next nonce 3, tx nonce 2"),
        (tx(MAX_GAP + 1), Account(0, RICH), "nonce too high"),
        (tx(0, value=1), Account(0, 21_000 * 100), r"insufficient funds for gas \* price \+ value: balance 2100000"),
        (tx(0, gas=20_999), Account(0, RICH), "intrinsic gas too low: gas 20999, minimum needed 21000"),
        (tx(0, gas=GAS_LIMIT + 1), Account(0, RICH), "exceeds block gas limit"),
        (tx(0, fee=5, tip=6), Account(0, RICH), "max priority fee per gas higher than max fee per gas"),
    ],
)
def test_add_unfit_transaction_is_refused_in_words(one: Transaction, account: Account, words: str) -> None:
    """What no block could hold now or later is refused, and the pool stays empty."""
    pool = Mempool()
    with pytest.raises(Refusal, match=words):
        pool.add(one, account, gas_limit=GAS_LIMIT)
    assert len(pool) == 0


def test_add_same_transaction_twice_is_already_known() -> None:
    """The second time it is already known."""
    with pytest.raises(Refusal, match="already known"):
        pool_of(tx(0), tx(0))


def test_add_to_a_full_pool_is_refused() -> None:
    """A full pool takes replacements, and nothing else."""
    pool = pool_of(tx(0), tx(1), pool=Mempool(max_pooled=2))
    with pytest.raises(Refusal, match="txpool is full"):
        pool_of(tx(2), pool=pool)
    pool_of(tx(1, fee=200, tip=20), pool=pool)
    assert len(pool) == 2
