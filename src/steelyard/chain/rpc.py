"""A small JSON-RPC client: single calls, batches, several endpoints, errors that say what to do.

1. A call is one request; nothing is asked beside it (web3's middleware sends three).
2. Reads and eth_sendRawTransaction may be repeated at another endpoint; nothing else is.
3. "Already known" is success: the transaction is where it should be.
4. A block tag is a number or one of "latest", "pending", "safe", "finalized", "earliest".

Law: the Ethereum JSON-RPC specification (ethereum/execution-apis) and JSON-RPC 2.0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import msgspec

from steelyard.chain.records import (
    Block,
    Log,
    TxReceipt,
    parse_block,
    parse_bytes,
    parse_logs,
    parse_quantity,
    parse_receipt,
    quantity,
)
from steelyard.chain.replies import build_error, parse_replies, parse_reply
from steelyard.chain.transport import Transport
from steelyard.errors import ChainError, ChainUnreachable
from steelyard.protocol.hashing import keccak
from steelyard.protocol.ids import format_hex

Call = tuple[str, Sequence[Any]]
BlockTag = int | str

MAX_BATCH_CALLS = 100
_REPEATABLE = (
    "eth_get",
    "eth_call",
    "eth_estimateGas",
    "eth_blockNumber",
    "eth_chainId",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_syncing",
    "net_",
    "web3_",
)


class ChainRpc:
    """A JSON-RPC client for one chain; opens its session with the first call, `aclose` (or ``async with``) ends it.

    Args:
        urls: endpoints of the same chain, best first; http or https.
        chain_id: what every endpoint must serve, checked before it is trusted; None takes any.
        timeout_s: one attempt at one endpoint. rounds: attempts at each before ChainUnreachable.
        backoff_s: pause before the second round, doubled each further one. clock: monotonic seconds.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None = None,
        timeout_s: float = 10.0,
        rounds: int = 3,
        backoff_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.urls = tuple(urls)
        self._transport = Transport(
            urls, chain_id=chain_id, timeout_s=timeout_s, rounds=rounds, backoff_s=backoff_s, clock=clock
        )
        self._clock = clock
        self._chain_id = chain_id

    async def __aenter__(self) -> ChainRpc:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"ChainRpc({self._transport.shown})"

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        await self._transport.aclose()

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Return one call's result.

        Raises:
            Reverted: a contract refused. ChainUnreachable: no endpoint answered. ChainError: the chain said no.
        """
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        reply = await self._transport.post(body, parse_reply, is_repeatable=_is_repeatable(method))
        if reply.error is not None:
            raise build_error(reply.error, method, params)
        return reply.result

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of many calls in their order; a failed one's place holds its ChainError, not raised.

        Raises:
            ChainUnreachable: no endpoint answered; nothing is known of any call.
        """
        results: list[Any] = []
        for start in range(0, len(calls), MAX_BATCH_CALLS):
            results += await self._batch_once(calls[start : start + MAX_BATCH_CALLS])
        return results

    async def batch_all(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of many calls in their order; raises the first failed one's ChainError."""
        results = await self.batch(calls)
        for result in results:
            if isinstance(result, ChainError):
                raise result
        return results

    async def _batch_once(self, calls: Sequence[Call]) -> list[Any]:
        body = msgspec.json.encode(
            [{"jsonrpc": "2.0", "id": i, "method": m, "params": p} for i, (m, p) in enumerate(calls)]
        )
        replies = await self._transport.post(
            body,
            lambda raw: parse_replies(raw, len(calls)),
            is_repeatable=all(_is_repeatable(method) for method, _ in calls),
        )
        return [
            reply.result if reply.error is None else build_error(reply.error, method, params)
            for reply, (method, params) in zip(replies, calls, strict=True)
        ]

    async def chain_id(self) -> int:
        """Return the chain's id; asked once."""
        if self._chain_id is None:
            self._chain_id = parse_quantity(await self.call("eth_chainId"), "chain id")
        return self._chain_id

    async def block_number(self) -> int:
        """Return the newest block's number."""
        return parse_quantity(await self.call("eth_blockNumber"), "block number")

    async def block(self, block: BlockTag | bytes = "latest") -> Block | None:
        """Return a block's header by number, tag or 32-byte hash; None if the chain has no such block."""
        reply = await self.call(*block_call(block))
        return None if reply is None else parse_block(reply)

    async def balance(self, account: bytes, block: BlockTag = "latest") -> int:
        """Return an account's gas coin in wei (YARD: `YardClient.balance_of`)."""
        reply = await self.call("eth_getBalance", [format_hex(account), block_tag(block)])
        return parse_quantity(reply, "balance")

    async def code(self, account: bytes) -> bytes:
        """Return the code at an address; empty where no contract stands."""
        return parse_bytes(await self.call("eth_getCode", [format_hex(account), "latest"]), "code")

    async def nonce(self, account: bytes, block: BlockTag = "latest") -> int:
        """Return how many transactions of an account are mined (with "pending": or known to the node)."""
        reply = await self.call("eth_getTransactionCount", [format_hex(account), block_tag(block)])
        return parse_quantity(reply, "transaction count")

    async def eth_call(
        self, to: bytes, data: bytes, block: BlockTag = "latest", *, sender: bytes | None = None
    ) -> bytes:
        """Return what a contract answers to call data, changing nothing.

        Raises:
            Reverted: the contract refused; with its decoded reason.
        """
        return parse_bytes(await self.call(*read_call(to, data, block, sender=sender)), "call result")

    async def get_logs(
        self,
        addresses: Iterable[bytes],
        from_block: int,
        to_block: int,
        topics: Sequence[Sequence[bytes] | None] = (),
    ) -> list[Log]:
        """Return the events of some contracts in a range of blocks, both ends included, in chain order.

        Args:
            addresses: 20 bytes each. topics: per position the topics that match, None for any.
        """
        return parse_logs(await self.call(*logs_call(addresses, from_block, to_block, topics)))

    async def send_raw(self, raw: bytes) -> bytes:
        """Hand a signed transaction to the chain and return its 32-byte hash; sending it twice does no harm.

        Raises:
            ChainError: refused; its code is ``nonce_too_low``, ``replacement_underpriced``, ``fee_too_low``,
                ``insufficient_gas_funds`` or ``rpc_error``.
            ChainUnreachable: no endpoint answered; it may have arrived all the same.
        """
        try:
            await self.call("eth_sendRawTransaction", [format_hex(raw)])
        except ChainError as error:
            if error.code != "already_known":
                raise
        return keccak(raw)

    async def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        """Return a transaction's receipt, or None while it isn't mined."""
        reply = await self.call("eth_getTransactionReceipt", [format_hex(tx_hash)])
        return None if reply is None else parse_receipt(reply)

    async def wait_receipt(
        self, tx_hash: bytes, *, confirmations: int = 1, timeout_s: float = 60.0, poll_s: float = 0.05
    ) -> TxReceipt:
        """Return a transaction's receipt once it is `confirmations` blocks deep (1: mined), successful or not.

        Raises:
            ChainError: not mined in time (``transaction_pending``). ChainUnreachable: the chain is silent to the end.
        """
        deadline = self._clock() + timeout_s
        last: ChainUnreachable | None = None
        while True:
            try:
                last = None
                receipt = await self.receipt(tx_hash)
                if receipt is not None and (
                    confirmations <= 1 or await self.block_number() >= receipt.block_number + confirmations - 1
                ):
                    return receipt
            except ChainUnreachable as error:
                last = error
            if self._clock() >= deadline:
                raise last or ChainError(
                    f"transaction {format_hex(tx_hash)} is not mined after {timeout_s:g} s; it may still be",
                    code="transaction_pending",
                )
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 1.5, 1.0)


def block_tag(block: BlockTag) -> str:
    """Return a block's number or tag as JSON-RPC wants it."""
    return block if isinstance(block, str) else quantity(block)


def block_call(block: BlockTag | bytes) -> Call:
    """Return the call, for `batch`, that fetches a block's header."""
    if isinstance(block, bytes):
        return "eth_getBlockByHash", [format_hex(block), False]
    return "eth_getBlockByNumber", [block_tag(block), False]


def read_call(to: bytes, data: bytes, block: BlockTag = "latest", *, sender: bytes | None = None) -> Call:
    """Return the call, for `batch`, that reads a contract."""
    request = {"to": format_hex(to), "data": format_hex(data)}
    if sender is not None:
        request["from"] = format_hex(sender)
    return "eth_call", [request, block_tag(block)]


def logs_call(
    addresses: Iterable[bytes], from_block: int, to_block: int, topics: Sequence[Sequence[bytes] | None] = ()
) -> Call:
    """Return the call, for `batch`, that fetches events of a range of blocks."""
    request: dict[str, Any] = {
        "address": [format_hex(address) for address in addresses],
        "fromBlock": quantity(from_block),
        "toBlock": quantity(to_block),
    }
    if topics:
        request["topics"] = [None if group is None else [format_hex(topic) for topic in group] for group in topics]
    return "eth_getLogs", [request]


def _is_repeatable(method: str) -> bool:
    return method.startswith(_REPEATABLE)
