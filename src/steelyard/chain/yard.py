"""Yard: the token, seen from Python. Amounts are nano (10^-9 YARD).

Law: contracts/src/Yard.sol; EIP-20, EIP-2612, EIP-3009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.protocol.hashing import address_word, keccak, word
from steelyard.protocol.signing import SigningKey

PERMIT_TYPE_HASH = keccak(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")
_DOMAIN_TYPE_HASH = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """An owner's signed allowance (EIP-2612); `signature` is 65 bytes, `deadline_s` Unix seconds."""

    owner: bytes
    spender: bytes
    amount_nano: int
    nonce: int
    deadline_s: int
    signature: bytes


class YardClient:
    """Reads and sends of the token.

    Args:
        rpc: its life is the caller's. deployment: which token.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Yard", deployment.yard)
        separator = (
            _DOMAIN_TYPE_HASH
            + keccak(b"Yard")
            + keccak(b"1")
            + word(deployment.chain_id)
            + address_word(deployment.yard)
        )
        self._prefix = b"\x19\x01" + keccak(separator)

    async def fetch_balance(self, account: bytes, block: BlockTag = "latest") -> int:
        """Return an account's wallet, in nano."""
        return int((await self.contract.read("balanceOf", account, block=block))[0])

    async def fetch_balances(self, accounts: Sequence[bytes], block: BlockTag = "latest") -> list[int]:
        """Return many wallets in one request, in nano, in the order of the accounts."""
        values = await self.contract.read_many([("balanceOf", (account,)) for account in accounts], block)
        return [int(value[0]) for value in values]

    async def fetch_total_supply(self, block: BlockTag = "latest") -> int:
        """Return minted less burned, in nano."""
        return int((await self.contract.read("totalSupply", block=block))[0])

    async def fetch_allowance(self, owner: bytes, spender: bytes) -> int:
        """Return what `spender` may take from `owner`, in nano."""
        return int((await self.contract.read("allowance", owner, spender))[0])

    async def fetch_permit_nonce(self, owner: bytes) -> int:
        """Return the nonce that the owner's next permit carries."""
        return int((await self.contract.read("nonces", owner))[0])

    async def transfer(self, sender: Sender, to: bytes, amount_nano: int) -> TxReceipt:
        """Move nano from the sender's wallet."""
        return await self.contract.send(sender, "transfer", to, amount_nano)

    async def approve(self, sender: Sender, spender: bytes, amount_nano: int) -> TxReceipt:
        """Let `spender` take up to so many nano from the sender's wallet; replaces what it might before."""
        return await self.contract.send(sender, "approve", spender, amount_nano)

    async def ensure_allowance(self, sender: Sender, spender: bytes, amount_nano: int) -> None:
        """Approve `spender` for the amount unless it may take that much already."""
        if await self.fetch_allowance(sender.account, spender) < amount_nano:
            await self.approve(sender, spender, amount_nano)

    async def mint(self, sender: Sender, to: bytes, amount_nano: int) -> TxReceipt:
        """Create nano; the sender needs the minter role."""
        return await self.contract.send(sender, "mint", to, amount_nano)

    async def burn(self, sender: Sender, amount_nano: int) -> TxReceipt:
        """Destroy nano of the sender's wallet."""
        return await self.contract.send(sender, "burn", amount_nano)

    def digest(self, struct_hash: bytes) -> bytes:
        """Return the 32-byte EIP-712 digest that is signed for a struct hash under the token's own domain."""
        return keccak(self._prefix + struct_hash)

    def sign_permit(self, key: SigningKey, spender: bytes, amount_nano: int, *, nonce: int, deadline_s: int) -> Permit:
        """Return the key's permit for `spender`; it costs the owner no gas and anyone may submit it."""
        body = address_word(key.account) + address_word(spender) + word(amount_nano) + word(nonce) + word(deadline_s)
        digest = self.digest(keccak(PERMIT_TYPE_HASH + body))
        return Permit(
            owner=key.account,
            spender=spender,
            amount_nano=amount_nano,
            nonce=nonce,
            deadline_s=deadline_s,
            signature=key.sign(digest),
        )

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the token's events among logs: Transfer(from, to, value), Approval, …"""
        return self.contract.decode_events(logs)
