"""Escrow: deposits, vouchers, payouts, seen from Python. Amounts are nano.

1. Vouchers are encoded by hand: the whole is static words, and the generic encoder costs thirty times more.
2. A redemption's outcome is read from its events, voucher by voucher: a skipped one is told with its reason.

Law: contracts/src/Escrow.sol; docs/spec/money.md, sections 3 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.yard import Permit, YardClient
from steelyard.protocol.hashing import ZERO32, address_word, word
from steelyard.protocol.lanes import SignedVoucher
from steelyard.protocol.signing import compact_signature


class Skip(IntEnum):
    """Why a voucher was passed over; the numbers are the contract's."""

    NONE = 0
    BAD_SIGNATURE = 1
    BAD_PROVIDER = 2
    UNKNOWN_SERVICE = 3
    NO_ACCOUNT = 4
    LOWER_TOTAL = 5
    NOTHING_DUE = 6
    TOO_HIGH = 7
    NO_FUNDS = 8


@dataclass(frozen=True, slots=True)
class GatewayAccount:
    """A gateway's money in the escrow; a withdrawal of zero nano is none."""

    deposit_nano: int
    owed_nano: int
    withdrawal_nano: int
    withdrawal_at_s: int

    @property
    def is_withdrawing(self) -> bool:
        """Whether a withdrawal is announced: nobody should extend credit."""
        return self.withdrawal_nano > 0


@dataclass(frozen=True, slots=True)
class LaneTotals:
    """A lane on chain: the highest total redeemed, and what of it was paid."""

    accepted_nano: int
    paid_nano: int

    @property
    def owed_nano(self) -> int:
        """What the gateway could not pay yet."""
        return self.accepted_nano - self.paid_nano


@dataclass(frozen=True, slots=True)
class RedeemedLane:
    """What a redemption did for one lane."""

    lane_key: bytes
    cumulative_nano: int
    paid_nano: int
    count: int
    head: bytes


@dataclass(frozen=True, slots=True)
class SkippedVoucher:
    """A voucher that changed nothing; `index` is its place among those sent."""

    index: int
    lane_key: bytes
    reason: Skip


@dataclass(frozen=True, slots=True)
class Redemption:
    """A mined redemption, voucher by voucher."""

    receipt: TxReceipt
    redeemed: tuple[RedeemedLane, ...]
    skipped: tuple[SkippedVoucher, ...]

    @property
    def paid_nano(self) -> int:
        """What all its vouchers were paid."""
        return sum(lane.paid_nano for lane in self.redeemed)


class EscrowClient:
    """Reads and sends of the escrow.

    Args:
        rpc: its life is the caller's. deployment: which escrow.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Escrow", deployment.escrow)
        self.yard = YardClient(rpc, deployment)

    async def fetch_account(self, gateway: bytes, block: BlockTag = "latest") -> GatewayAccount:
        """Return a gateway's deposit, debt and announced withdrawal."""
        return GatewayAccount(*await self.contract.read("accountOf", gateway, block=block))

    async def fetch_accounts(self, gateways: Sequence[bytes], block: BlockTag = "latest") -> list[GatewayAccount]:
        """Return many gateways' accounts in one request, in order."""
        values = await self.contract.read_many([("accountOf", (gateway,)) for gateway in gateways], block)
        return [GatewayAccount(*value) for value in values]

    async def fetch_lane(self, lane_key: bytes, block: BlockTag = "latest") -> LaneTotals:
        """Return a lane's totals; zeros where nothing was redeemed."""
        return LaneTotals(*await self.contract.read("laneOf", lane_key, block=block))

    async def fetch_lanes(self, lane_keys: Sequence[bytes], block: BlockTag = "latest") -> list[LaneTotals]:
        """Return many lanes' totals in one request, in order."""
        values = await self.contract.read_many([("laneOf", (key,)) for key in lane_keys], block)
        return [LaneTotals(*value) for value in values]

    async def fetch_unswept(self, accounts: Sequence[bytes], block: BlockTag = "latest") -> list[int]:
        """Return what accounts were credited and have not been sent, in nano, in order."""
        values = await self.contract.read_many([("unsweptOf", (account,)) for account in accounts], block)
        return [int(value[0]) for value in values]

    async def fetch_protocol_pot(self, block: BlockTag = "latest") -> bytes:
        """Return who is credited with the protocol's shares now."""
        return bytes((await self.contract.read("protocolPot", block=block))[0])

    async def deposit(self, sender: Sender, gateway: bytes, amount_nano: int) -> TxReceipt:
        """Add to a gateway's deposit from the sender's wallet; approves the escrow first where it must."""
        await self.yard.ensure_allowance(sender, self.contract.address, amount_nano)
        return await self.contract.send(sender, "deposit", gateway, amount_nano)

    async def deposit_with_permit(self, sender: Sender, gateway: bytes, permit: Permit) -> TxReceipt:
        """Add what the sender's own permit allows, in one transaction."""
        r, s, v = permit.signature[:32], permit.signature[32:64], permit.signature[64]
        return await self.contract.send(
            sender, "depositWithPermit", gateway, permit.amount_nano, permit.deadline_s, v, r, s
        )

    async def announce_withdrawal(self, sender: Sender, amount_nano: int) -> TxReceipt:
        """Announce a withdrawal from the sender's deposit; providers stop extending credit at once."""
        return await self.contract.send(sender, "announceWithdrawal", amount_nano)

    async def cancel_withdrawal(self, sender: Sender) -> TxReceipt:
        """Take the sender's announcement back."""
        return await self.contract.send(sender, "cancelWithdrawal")

    async def withdraw(self, sender: Sender) -> TxReceipt:
        """Take what was announced, after its delay, while nothing is owed."""
        return await self.contract.send(sender, "withdraw")

    async def sweep(self, sender: Sender, accounts: Sequence[bytes]) -> TxReceipt:
        """Send unswept balances to their owners' wallets."""
        return await self.contract.send(sender, "sweep", list(accounts))

    async def set_protocol_pot(self, sender: Sender, pot: bytes) -> TxReceipt:
        """Choose who is credited with the protocol's shares from now on; the sender needs the admin role."""
        return await self.contract.send(sender, "setProtocolPot", pot)

    async def redeem(self, sender: Sender, vouchers: Sequence[SignedVoucher], blob: bytes = ZERO32) -> Redemption:
        """Redeem vouchers and say where the calls behind them are.

        Args:
            vouchers: of any gateways and services; side by side those of one service cost least.
            blob: sha256 digest of the blob with batches, orders and receipts; zero publishes none.
        """
        data = self.encode_redeem(vouchers, blob)
        receipt = await sender.send(self.contract.address, data, what="Escrow.redeem")
        return self.parse_redemption(receipt)

    def encode_redeem(self, vouchers: Sequence[SignedVoucher], blob: bytes = ZERO32) -> bytes:
        """Return the call data of `redeem`; raises BadMessage for a field outside its type."""
        parts = [self.contract.abi.functions["redeem"].selector, word(64), blob, word(len(vouchers))]
        for signed in vouchers:
            voucher = signed.voucher
            voucher.check_fields()
            parts += (
                address_word(voucher.gateway),
                address_word(voucher.provider),
                voucher.service_id,
                word(voucher.lane_id),
                word(voucher.cumulative),
                word(voucher.count),
                voucher.head,
                *compact_signature(signed.signature),
            )
        return b"".join(parts)

    def parse_redemption(self, receipt: TxReceipt) -> Redemption:
        """Return what a mined redemption did, from its events."""
        redeemed, skipped = [], []
        for event in self.decode_events(receipt.logs):
            values = event.values
            if event.name == "LaneRedeemed":
                lane = RedeemedLane(
                    values["lane"], values["cumulative"], values["paid"], values["count"], values["head"]
                )
                redeemed.append(lane)
            elif event.name == "VoucherSkipped":
                skipped.append(SkippedVoucher(values["index"], values["lane"], Skip(values["reason"])))
        return Redemption(receipt, tuple(redeemed), tuple(skipped))

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the escrow's events among logs: Deposited, LaneOpened, LaneRedeemed, VoucherSkipped, …"""
        return self.contract.decode_events(logs)
