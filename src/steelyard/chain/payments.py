"""Payments that a payer signs and somebody else settles: EIP-3009 on the token, and Permit2 with x402's witness.

1. A payment names its receiver, its amount and its nonce under the payer's signature: whoever submits it can change
   nothing, and it is taken once.
2. Struct hashes are written out by hand, as the token, Permit2 and the proxy compute them.
3. What `fetch_standing` reads is of one moment: only settling decides.

Law: docs/spec/x402.md; EIP-3009; contracts/src/UptoProxy.sol.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.permit2 import PERMIT2, UPTO_PROXY, permit2_separator
from steelyard.chain.records import TxReceipt, parse_block, parse_bytes
from steelyard.chain.rpc import ChainRpc, block_call, read_call
from steelyard.chain.sender import Sender
from steelyard.chain.yard import Permit, YardClient
from steelyard.protocol.hashing import address_word, keccak, word
from steelyard.protocol.signing import require_signer

AUTHORIZATION_TYPE_HASH = keccak(
    b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    b"bytes32 nonce)"
)
PERMISSIONS_TYPE_HASH = keccak(b"TokenPermissions(address token,uint256 amount)")
WITNESS_TYPE_HASH = keccak(b"Witness(address to,address facilitator,uint256 validAfter)")
TRANSFER_TYPE_HASH = keccak(
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"Witness witness)TokenPermissions(address token,uint256 amount)"
    b"Witness(address to,address facilitator,uint256 validAfter)"
)
_NONCE_BITMAP = keccak(b"nonceBitmap(address,uint256)")[:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """A transfer of exactly so much, by EIP-3009; times in Unix seconds, `nonce` 32 bytes, `signature` 65."""

    payer: bytes
    receiver: bytes
    amount_nano: int
    valid_after_s: int
    valid_before_s: int
    nonce: bytes
    signature: bytes

    def struct_hash(self) -> bytes:
        """Return the EIP-712 struct hash, under the token's domain."""
        return keccak(
            AUTHORIZATION_TYPE_HASH
            + address_word(self.payer)
            + address_word(self.receiver)
            + word(self.amount_nano)
            + word(self.valid_after_s)
            + word(self.valid_before_s)
            + self.nonce
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessTransfer:
    """A transfer of at most so much, by Permit2 with a witness; `permit` lets Permit2 take it, if need be.

    Attributes:
        spender: the proxy that the payer signed for. facilitator: the account that alone may settle.
    """

    payer: bytes
    receiver: bytes
    token: bytes
    amount_nano: int
    spender: bytes
    facilitator: bytes
    valid_after_s: int
    deadline_s: int
    nonce: int
    signature: bytes
    permit: Permit | None = None

    def struct_hash(self) -> bytes:
        """Return the EIP-712 struct hash, under Permit2's domain."""
        permissions = keccak(PERMISSIONS_TYPE_HASH + address_word(self.token) + word(self.amount_nano))
        witness = keccak(
            WITNESS_TYPE_HASH + address_word(self.receiver) + address_word(self.facilitator) + word(self.valid_after_s)
        )
        return keccak(
            TRANSFER_TYPE_HASH
            + permissions
            + address_word(self.spender)
            + word(self.nonce)
            + word(self.deadline_s)
            + witness
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """A payer as of the newest block: what it has, what Permit2 may take of it, whether the nonce is spent."""

    balance_nano: int
    allowance_nano: int
    is_nonce_spent: bool
    block_time_s: int


class PaymentsClient:
    """Reads and settlements of signed payments in YARD.

    Args:
        rpc: its life is the caller's. deployment: which token.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self._rpc = rpc
        self._yard = YardClient(rpc, deployment)
        self._proxy = Contract(rpc, "UptoProxy", UPTO_PROXY)
        self._permit2_prefix = b"\x19\x01" + permit2_separator(deployment.chain_id)

    async def has_upto(self) -> bool:
        """Say whether Permit2 and the proxy stand on this chain."""
        return all([await self._rpc.code(address) for address in (PERMIT2, UPTO_PROXY)])

    def require_signed(self, payment: Authorization | WitnessTransfer) -> None:
        """Refuse a payment that its payer didn't sign; raises BadSignature."""
        struct_hash = payment.struct_hash()
        if isinstance(payment, Authorization):
            digest = self._yard.digest(struct_hash)
        else:
            digest = keccak(self._permit2_prefix + struct_hash)
        require_signer(digest, payment.signature, payment.payer, "payment")

    async def fetch_standing(self, payment: Authorization | WitnessTransfer) -> Standing:
        """Return the payer's money and the nonce's state, in one request; raises ChainError."""
        token, payer = self._yard.contract, payment.payer
        if isinstance(payment, Authorization):
            nonce = read_call(token.address, token.encode("authorizationState", payer, payment.nonce))
        else:
            words = address_word(payer) + word(payment.nonce >> 8)
            nonce = read_call(PERMIT2, _NONCE_BITMAP + words)
        calls = [
            read_call(token.address, token.encode("balanceOf", payer)),
            read_call(token.address, token.encode("allowance", payer, PERMIT2)),
            nonce,
            block_call("latest"),
        ]
        balance, allowance, spent, block = await self._rpc.batch_all(calls)
        bits = _integer(spent, "the nonce's state")
        is_spent = bits != 0 if isinstance(payment, Authorization) else bool(bits >> (payment.nonce & 0xFF) & 1)
        return Standing(
            _integer(balance, "a balance"),
            _integer(allowance, "an allowance"),
            is_spent,
            parse_block(block).timestamp_s,
        )

    async def simulate(self, payment: Authorization | WitnessTransfer, amount_nano: int, facilitator: bytes) -> None:
        """Settle so much without doing it; raises Reverted with the reason for which it would fail."""
        to, data = self._settlement(payment, amount_nano)
        await self._rpc.eth_call(to, data, sender=facilitator)

    async def settle(self, sender: Sender, payment: Authorization | WitnessTransfer, amount_nano: int) -> TxReceipt:
        """Take so much of a payment (of an authorization: all of it); raises as `Sender.send` does."""
        to, data = self._settlement(payment, amount_nano)
        return await sender.send(to, data, what="the settlement of a payment")

    def _settlement(self, payment: Authorization | WitnessTransfer, amount_nano: int) -> tuple[bytes, bytes]:
        signature = payment.signature
        if isinstance(payment, Authorization):
            if amount_nano != payment.amount_nano:
                raise ValueError(f"an authorization of {payment.amount_nano} nano can't be settled at {amount_nano}")
            return self._yard.contract.address, self._yard.contract.encode(
                _AUTHORIZED,
                payment.payer,
                payment.receiver,
                amount_nano,
                payment.valid_after_s,
                payment.valid_before_s,
                payment.nonce,
                signature[64],
                signature[:32],
                signature[32:64],
            )
        arguments = (
            ((payment.token, payment.amount_nano), payment.nonce, payment.deadline_s),
            amount_nano,
            payment.payer,
            (payment.receiver, payment.facilitator, payment.valid_after_s),
            signature,
        )
        permit = payment.permit
        if permit is None:
            return UPTO_PROXY, self._proxy.encode("settle", *arguments)
        r, s, v = permit.signature[:32], permit.signature[32:64], permit.signature[64]
        token_permit = (permit.amount_nano, permit.deadline_s, r, s, v)
        return UPTO_PROXY, self._proxy.encode("settleWithPermit", token_permit, *arguments)


_AUTHORIZED = "transferWithAuthorization"


def _integer(reply: object, what: str) -> int:
    return int.from_bytes(parse_bytes(reply, what, 32), "big")
