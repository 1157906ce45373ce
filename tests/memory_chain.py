"""A chain in memory that loses, contends and reorganises as it is told, and a sender on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import rlp

from steelyard.chain.records import TxReceipt
from steelyard.chain.sender import Sender, SendPolicy
from steelyard.errors import ChainError, ChainUnreachable, Reverted
from steelyard.protocol.hashing import keccak
from steelyard.protocol.signing import SigningKey

KEY = SigningKey(b"\x07" * 32)
TARGET = b"\x11" * 20
POLICY = SendPolicy(poll_s=0.0, max_poll_s=0.0, stall_s=4.0, timeout_s=400.0)


class MemoryChain:
    """The part of ChainRpc that a sender uses, for one account; mines at once unless told to wait.

    `faults` is what happens to the next broadcasts: "lost" (nothing arrives, no answer), "silent" (arrives, no answer),
    "forgotten" (acknowledged, then dropped), "ok".
    """

    def __init__(self) -> None:
        self.mined: list[bytes] = []
        self.pool: dict[int, bytes] = {}
        self.failing: set[bytes] = set()
        self.faults: deque[str] = deque()
        self.broadcasts: list[bytes] = []
        self.is_mining = True
        self.height = 100
        self.estimate: int | ChainError = 21_000

    async def chain_id(self) -> int:
        return 31415

    async def block_number(self) -> int:
        self.height += 1
        return self.height

    async def nonce(self, _account: bytes, block: str = "latest") -> int:
        count = len(self.mined)
        while block == "pending" and count in self.pool:
            count += 1
        return count

    async def send_raw(self, raw: bytes) -> bytes:
        self.broadcasts.append(raw)
        fault = self.faults.popleft() if self.faults else "ok"
        await asyncio.sleep(0)
        if fault == "lost":
            raise ChainUnreachable("nobody there")
        if fault != "forgotten":
            self._take(raw)
        if fault == "silent":
            raise ChainUnreachable("broke off")
        return keccak(raw)

    def _take(self, raw: bytes) -> None:
        nonce = nonce_of(raw)
        if nonce < len(self.mined):
            if raw == self.mined[nonce]:
                return  # "already known" is success
            raise ChainError("nonce too low", code="nonce_too_low")
        waiting = self.pool.get(nonce)
        if waiting not in (None, raw) and fee_of(raw) * 10 < fee_of(waiting) * 11:
            raise ChainError("underpriced", code="replacement_underpriced")
        self.pool[nonce] = raw
        if self.is_mining:
            self.mine()

    def mine(self) -> None:
        while len(self.mined) in self.pool:
            self.mined.append(self.pool.pop(len(self.mined)))

    async def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        for number, raw in enumerate(self.mined):
            if keccak(raw) == tx_hash:
                return TxReceipt(tx_hash, 100 + number, b"\x00" * 32, raw not in self.failing, 21_000, 1, None, ())
        return None

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        if method == "eth_feeHistory":
            return {"baseFeePerGas": ["0x3b9aca00"], "reward": [["0x1"]]}
        if method == "eth_estimateGas":
            if isinstance(self.estimate, ChainError):
                raise self.estimate
            return hex(self.estimate)
        if method == "eth_getTransactionByHash":
            known = [*self.pool.values(), *self.mined]
            return {} if any("0x" + keccak(raw).hex() == params[0] for raw in known) else None
        if method == "eth_getTransactionReceipt":
            receipt = await self.receipt(bytes.fromhex(params[0][2:]))
            return None if receipt is None else as_json(receipt)
        if method == "eth_call":
            raise Reverted("refused", data=bytes.fromhex("3ee5aeb5"))  # ReentrancyGuardReentrantCall()
        raise AssertionError(method)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        results: list[Any] = []
        for method, params in calls:
            try:
                results.append(await self.call(method, params))
            except ChainError as error:
                results.append(error)
        return results

    batch_all = batch


def as_json(receipt: TxReceipt) -> dict[str, Any]:
    return {
        "transactionHash": "0x" + receipt.tx_hash.hex(),
        "blockNumber": hex(receipt.block_number),
        "blockHash": "0x" + receipt.block_hash.hex(),
        "status": "0x1",
        "gasUsed": "0x5208",
        "logs": [],
    }


def fields_of(raw: bytes) -> list[bytes]:
    return rlp.decode(raw[1:])  # type: ignore[no-any-return]


def nonce_of(raw: bytes) -> int:
    return int.from_bytes(fields_of(raw)[1], "big")


def fee_of(raw: bytes) -> int:
    return int.from_bytes(fields_of(raw)[3], "big")


def value_of(raw: bytes) -> int:
    return int.from_bytes(fields_of(raw)[6], "big")


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  # the chain in memory has no events to wait for
        await asyncio.sleep(0)


def sender_on(chain: MemoryChain, policy: SendPolicy = POLICY) -> Sender:
    ticks = iter(range(10**9))
    return Sender(chain, KEY, policy=policy, clock=lambda: float(next(ticks)))  # type: ignore[arg-type]
