"""Proofs: lies that signatures alone decide, and evidence demanded on chain, seen from Python.

1. What is proven is built from the protocol's own messages; the contract hashes the same fields.
2. A demand needs the bond in the sender's wallet, for the court that keeps it, and the gateway's consent unless the
   sender is that gateway: what is served on chain is public for ever.

Law: contracts/src/Faults.sol, Demands.sol; docs/spec/contracts.md, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.contract import Contract
from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.protocol.evidence import chunk_items, split_chunks
from steelyard.protocol.hashing import ZERO32, address_word, keccak
from steelyard.protocol.lanes import SignedBatch, SignedVoucher
from steelyard.protocol.lies import Lie, PlacedReceipt, TwoBatches, TwoReceipts
from steelyard.protocol.merkle import build_proof
from steelyard.protocol.messages import Message, Receipt
from steelyard.protocol.signing import Domain, SigningKey, compact_signature

CONSENT_TYPE_HASH = keccak(b"Consent(address demander,bytes32 receipt)")
SERVE_CHUNKS = 64
"""Chunks of evidence that one transaction carries: 64 KiB, some 3 million gas."""


class DemandState(IntEnum):
    """How far a demand is; the numbers are the contract's."""

    NONE = 0
    OPEN = 1
    SERVED = 2
    SILENT = 3


@dataclass(frozen=True, slots=True)
class Demand:
    """A demand for one receipt's evidence: `served` chunks of it are on chain, all must be until `until_s`."""

    provider: bytes
    until_s: int
    served: int
    state: DemandState
    demander: bytes
    evidence_hash: bytes


@dataclass(frozen=True, slots=True)
class BatchedReceipt:
    """A receipt, the signed batch that it stands in, and the Merkle path that leads there."""

    signed: SignedBatch
    receipt: Receipt
    proof: tuple[bytes, ...]

    @classmethod
    def build(cls, signed: SignedBatch, receipt_ids: Sequence[bytes], receipt: Receipt) -> BatchedReceipt:
        """Return it from the batch's receipt ids in leaf order; raises ValueError if the receipt is none of them."""
        return cls(signed, receipt, tuple(build_proof(receipt_ids, list(receipt_ids).index(receipt.struct_hash()))))

    @classmethod
    def of(cls, placed: PlacedReceipt) -> BatchedReceipt:
        """Return it from a receipt with all of its batch's leaves."""
        return cls.build(placed.signed, placed.leaves, placed.receipt)

    def as_tuple(self) -> tuple[Any, ...]:
        """Return it in the contract's shape."""
        batch = self.signed.batch
        return (*_fields(batch), *compact_signature(self.signed.signature)), _fields(self.receipt), list(self.proof)


def sign_consent(key: SigningKey, domain: Domain, demander: bytes, receipt_id: bytes) -> bytes:
    """Return a gateway's signature (65 bytes) that `demander` may demand a call's evidence on chain."""
    return key.sign(domain.digest(keccak(CONSENT_TYPE_HASH + address_word(demander) + receipt_id)))


def demand_id(provider: bytes, receipt_id: bytes) -> bytes:
    """Return the 32 bytes that a demand is known by."""
    return keccak(address_word(provider) + receipt_id)


class ProofsClient:
    """Reads and sends of the contract that judges contradictions and silence.

    Args:
        rpc: its life is the caller's. deployment: which contracts.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Proofs", deployment.proofs)
        self._court = CourtClient(rpc, deployment)

    async def fetch_demand(self, id_: bytes, block: BlockTag = "latest") -> Demand:
        """Return a demand; its state is NONE where there is none."""
        provider, until_s, served, state, demander, evidence_hash, _ = (
            await self.contract.read("demandOf", id_, block=block)
        )[0]
        return Demand(provider, until_s, served, DemandState(state), demander, evidence_hash)

    async def demand_evidence(self, sender: Sender, given: BatchedReceipt, consent: bytes | None = None) -> bytes:
        """Demand a receipt's evidence with the sender's bond, and return the demand's id.

        Args:
            consent: `sign_consent` of the gateway for the sender; None where the sender is the gateway itself.
        """
        terms = await self._court.fetch_terms()
        await self._court.yard.ensure_allowance(sender, self._court.contract.address, terms.demand_bond_nano)
        r, vs = (ZERO32, ZERO32) if consent is None else compact_signature(consent)
        await self.contract.send(sender, "demandEvidence", given.as_tuple(), r, vs)
        return demand_id(given.signed.batch.provider, given.receipt.struct_hash())

    async def serve_evidence(self, sender: Sender, id_: bytes, blob: bytes) -> list[TxReceipt]:
        """Serve what is left of demanded evidence, in as many transactions as it needs."""
        items, chunks = chunk_items(blob), split_chunks(blob)
        first = (await self.fetch_demand(id_)).served
        sent = []
        for at in range(first, len(chunks), SERVE_CHUNKS):
            part = chunks[at : at + SERVE_CHUNKS]
            sent.append(await self.contract.send(sender, "serveEvidence", id_, items, at, part))
        return sent

    async def close_demand(self, sender: Sender, id_: bytes) -> TxReceipt:
        """Slash a provider that let the time to serve pass."""
        return await self.contract.send(sender, "closeDemand", id_)

    async def fetch_is_proven(self, lie_id: bytes, block: BlockTag = "latest") -> bool:
        """Say whether a lie (`protocol.lies.Lie.id`) was proven, by whomever."""
        return bool((await self.contract.read("isProven", lie_id, block=block))[0])

    async def prove(self, sender: Sender, lie: Lie) -> TxReceipt:
        """Prove a lie of any kind; the sender is its informer."""
        if isinstance(lie, TwoReceipts):
            return await self.prove_two_receipts(sender, BatchedReceipt.of(lie.one), BatchedReceipt.of(lie.other))
        if isinstance(lie, TwoBatches):
            return await self.prove_two_batches(sender, lie.one, lie.other)
        return await self.prove_two_vouchers(sender, lie.one, lie.other)

    async def prove_two_receipts(self, sender: Sender, one: BatchedReceipt, other: BatchedReceipt) -> TxReceipt:
        """Prove that a provider signed two receipts for one order and part."""
        return await self.contract.send(sender, "proveTwoReceipts", one.as_tuple(), other.as_tuple())

    async def prove_two_batches(self, sender: Sender, one: SignedBatch, other: SignedBatch) -> TxReceipt:
        """Prove that a provider signed two batches of a lane that can't both be."""
        first, second = sorted((one, other), key=lambda signed: signed.batch.seq)
        given = [(*_fields(signed.batch), *compact_signature(signed.signature)) for signed in (first, second)]
        return await self.contract.send(sender, "proveTwoBatches", *given)

    async def prove_two_vouchers(self, sender: Sender, one: SignedVoucher, other: SignedVoucher) -> TxReceipt:
        """Prove that a gateway signed two vouchers of a lane that can't both be."""
        first, second = sorted((one, other), key=lambda signed: signed.voucher.count)
        given = [(*_fields(signed.voucher), *compact_signature(signed.signature)) for signed in (first, second)]
        return await self.contract.send(sender, "proveTwoVouchers", *given)

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return its events among logs: FaultProven, EvidenceDemanded, EvidenceServed, DemandClosed."""
        return self.contract.decode_events(logs)


def _fields(message: Message) -> tuple[Any, ...]:
    message.check_fields()
    return tuple(getattr(message, name) for name in message.__struct_fields__)
