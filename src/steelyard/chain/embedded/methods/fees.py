"""Methods about the price of gas."""

from __future__ import annotations

from typing import Any

from steelyard.chain.embedded import queries
from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.header import Header, next_base_fee
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.methods.blocks import require_header
from steelyard.chain.embedded.params import block_ref, expect, number_or_quantity, optional
from steelyard.errors import BadRequest

SUGGESTED_TIP_WEI = 10**9
MAX_FEE_HISTORY = 1_024  # geth's limit
MAX_PERCENTILES = 100


class FeeMethods:
    """What a transaction should offer."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "eth_gasPrice": self.gas_price,
            "eth_maxPriorityFeePerGas": self.tip,
            "eth_blobBaseFee": self.blob_base_fee,
            "eth_feeHistory": self.history,
        }

    async def gas_price(self, params: list[Any]) -> str:
        """Return a legacy price that the next block takes."""
        expect(params, 0, 0)
        return hex(next_base_fee(self._chain.head) + SUGGESTED_TIP_WEI)

    async def tip(self, params: list[Any]) -> str:
        """Return the tip that wallets should offer; any is mined."""
        expect(params, 0, 0)
        return hex(SUGGESTED_TIP_WEI)

    async def blob_base_fee(self, params: list[Any]) -> str:
        """Return the least there is: this chain takes no blobs."""
        expect(params, 0, 0)
        return "0x1"

    async def history(self, params: list[Any]) -> dict[str, Any]:
        """Return base fees, fullness and tips of past blocks."""
        expect(params, 2, 3)
        count = min(number_or_quantity(params[0], "blockCount"), MAX_FEE_HISTORY)
        newest = require_header(self._chain, block_ref(params[1]))
        percentiles = optional(params, 2, [])
        if not isinstance(percentiles, list) or len(percentiles) > MAX_PERCENTILES:
            raise BadRequest(f"invalid reward percentiles: a list of at most {MAX_PERCENTILES}")
        for earlier, later in zip([0, *percentiles], percentiles, strict=False):  # each with the one before it
            if not isinstance(later, (int, float)) or not earlier <= later <= 100:
                raise BadRequest(f"invalid reward percentile: {later!r} is not between {earlier} and 100")
        return await self._chain.read(self._history, min(count, newest.number + 1), newest, percentiles)

    def _history(self, count: int, newest: Header, percentiles: list[float]) -> dict[str, Any]:
        db = self._chain.store.reader()
        oldest = newest.number - count + 1
        headers = [queries.load_header(db, number) for number in range(oldest, newest.number + 1)]
        known = [header for header in headers if header is not None]
        fees = [header.base_fee_wei for header in known]
        answer: dict[str, Any] = {
            "oldestBlock": hex(max(oldest, 0)),
            "baseFeePerGas": [hex(fee) for fee in [*fees, next_base_fee(newest)]] if known else [],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in known],
            "baseFeePerBlobGas": ["0x1"] * (len(known) + 1) if known else [],
            "blobGasUsedRatio": [0.0] * len(known),
        }
        if percentiles:
            answer["reward"] = [[hex(tip) for tip in self._tips(header, percentiles)] for header in known]
        return answer

    def _tips(self, header: Header, percentiles: list[float]) -> list[int]:
        if not header.gas_used:
            return [0] * len(percentiles)
        mined = queries.load_transactions(self._chain.store.reader(), self._chain.chain_id, header.number)
        base_fee = header.base_fee_wei
        tips = sorted((one.transaction.effective_gas_price(base_fee) - base_fee, one.gas_used) for one in mined)
        wanted = []
        position, gas = 0, tips[0][1]
        for percentile in percentiles:
            while gas < header.gas_used * percentile / 100 and position < len(tips) - 1:
                position += 1
                gas += tips[position][1]
            wanted.append(tips[position][0])
        return wanted
