"""Batches, receipts and evidence for tests of Proofs, signed by the actors whose they are.

Each is built from the messages of the protocol, so that contract and Python hash the same fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.contracts.world import World, fields

from steelyard.protocol.evidence import chunk_items, evidence_root, split_chunks
from steelyard.protocol.hashing import ZERO32, address_word, keccak
from steelyard.protocol.merkle import build_proof, merkle_root
from steelyard.protocol.messages import Batch, Receipt, Voucher
from steelyard.protocol.signing import SigningKey, compact_signature

CONSENT_TYPE_HASH = keccak(b"Consent(address demander,bytes32 receipt)")
EVIDENCE = bytes(range(256)) * 9  # two chunks and a quarter
ITEMS, CHUNKS = chunk_items(EVIDENCE), split_chunks(EVIDENCE)


@dataclass(frozen=True)
class Signer:
    """Signs for the actors of a world."""

    world: World

    def batch(self, service: bytes, receipts: Sequence[Receipt], **changes: Any) -> Batch:
        """Return a batch of `provider` over receipts, on lane 1 of `gateway`."""
        ids = [receipt.struct_hash() for receipt in receipts]
        gateway, provider = self.world.account("gateway"), self.world.account("provider")
        total = sum(receipt.cost for receipt in receipts)
        made: dict[str, Any] = {
            "gateway": gateway,
            "provider": provider,
            "service_id": service,
            "lane_id": 1,
            "seq": 1,
            "prev_head": ZERO32,
            "receipts_root": merkle_root(ids),
            "count": len(receipts),
            "cumulative": total,
        }
        return Batch(**made | changes)

    def signed(self, message: Batch | Voucher, signer: str) -> tuple[Any, ...]:
        """Return a message and its compact signature, in the shape that the contract takes."""
        return (*fields(message), *self.world.signed(message, self.world.actor(signer)))

    def batched(
        self, service: bytes, receipts: Sequence[Receipt], index: int = 0, **changes: Any
    ) -> tuple[Any, tuple[Any, ...], list[bytes]]:
        """Return one of some receipts in a signed batch, with its proof."""
        batch = self.signed(self.batch(service, receipts, **changes), "provider")
        proof = build_proof([receipt.struct_hash() for receipt in receipts], index)
        return batch, fields(receipts[index]), proof

    def receipt(self, **changes: Any) -> Receipt:
        """Return a receipt of a call that ended now, with evidence."""
        now_ms = self.world.evm.now() * 1_000
        made: dict[str, Any] = {
            "order_hash": keccak(b"order"),
            "part": 0,
            "response_hash": keccak(b"response"),
            "evidence_hash": evidence_root(EVIDENCE),
            "units_in": 11,
            "units_out": 22,
            "cost": 10**9,
            "started_ms": now_ms - 1_000,
            "finished_ms": now_ms,
            "finish_reason": 0,
        }
        return Receipt(**made | changes)

    def consent(self, key: SigningKey, demander: bytes, receipt: bytes) -> tuple[bytes, bytes]:
        """Return a gateway's signature that a call may be demanded."""
        struct_hash = keccak(CONSENT_TYPE_HASH + address_word(demander) + receipt)
        return compact_signature(key.sign(self.world.domain.digest(struct_hash)))


def corrupted(value: Any) -> Any:
    """Return a field's value with its lowest bit flipped."""
    return value ^ 1 if isinstance(value, int) else value[:-1] + bytes([value[-1] ^ 1])
