"""Methods about the node itself, most of them constant: one sequencer, no peers, no keys."""

from __future__ import annotations

from typing import Any

from steelyard import __version__
from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.params import data, expect
from steelyard.chain.embedded.views import to_hex
from steelyard.protocol.hashing import keccak


class NodeMethods:
    """`web3_*`, `net_*`, and what wallets ask before anything else."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        chain = self._chain
        constants: dict[str, Any] = {
            "web3_clientVersion": f"steelyard/{__version__}/{chain.engine.name}/{chain.engine.fork}",
            "net_version": str(chain.chain_id),
            "net_listening": True,
            "net_peerCount": "0x0",
            "eth_chainId": hex(chain.chain_id),
            "eth_syncing": False,
            "eth_mining": False,
            "eth_accounts": [],  # this node holds no key
            "rpc_modules": {"eth": "1.0", "net": "1.0", "web3": "1.0", "rpc": "1.0"},
        }
        return {name: _constant(value) for name, value in constants.items()} | {"web3_sha3": self.sha3}

    async def sha3(self, params: list[Any]) -> str:
        """Return the Keccak-256 of hex data."""
        expect(params, 1, 1)
        return to_hex(keccak(data(params[0], "data")))


def _constant(value: Any) -> Method:
    async def method(params: list[Any]) -> Any:
        expect(params, 0, 0)
        return value

    return method
