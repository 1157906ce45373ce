"""Calls of echo providers as a validator meets them: orders, receipts, signed batches, texts; honest or not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Batch, FinishReason, Grade, Lane, Order, Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.echo import EchoService
from steelyard.services.port import Context
from steelyard.validator.case_file import Material
from steelyard.validator.checker import Checkable
from steelyard.validator.gateway_client import ShownBatch, ShownCall

DOMAIN = Domain(31337, b"\x05" * 32)
PROVIDER = SigningKey(b"\x02" * 32)
GATEWAYS = (SigningKey(b"\x11" * 32).account, SigningKey(b"\x12" * 32).account)
MODEL = "echo-1"
SERVICE = service_id(MODEL)
SALT = b"\x07" * 16
EPOCH_S = 60
START_MS = 1_000_000 * EPOCH_S * 1000


def echo_checkable() -> Checkable:
    """How a validator checks the echo service: exactly."""
    return Checkable(EchoService(EchoService.describe(MODEL)), True, None, None)


@dataclass
class LaneMaker:
    """One lane as its provider writes it: each `add` is a signed batch of calls."""

    gateway: bytes = GATEWAYS[0]
    lane_id: int = 1
    key: SigningKey = PROVIDER
    domain: Domain = DOMAIN
    seq: int = 0
    head: bytes = ZERO32
    cumulative: int = 0
    cursor: int = 0
    calls: list[ShownCall] = field(default_factory=list)

    @property
    def lane(self) -> Lane:
        """The lane's name."""
        return Lane(self.gateway, self.key.account, SERVICE, self.lane_id)

    def add(self, *texts: str, is_lie: bool = False, finished_ms: int = START_MS) -> ShownBatch:
        """Sign a batch of calls that say these texts; a lie answers something else."""
        pairs = [self._call(text, f"{self.seq}.{index}", is_lie, finished_ms) for index, text in enumerate(texts)]
        hashes = [receipt.struct_hash() for _, receipt in pairs]
        self.seq += 1
        self.cursor += 1
        self.cumulative += sum(receipt.cost for _, receipt in pairs)
        lane = (self.gateway, self.key.account, SERVICE, self.lane_id)
        batch = Batch(*lane, self.seq, self.head, merkle_root(hashes), len(hashes), self.cumulative)
        self.head = self.domain.digest(batch.struct_hash())
        return ShownBatch(self.cursor, SignedBatch(batch, self.key.sign(self.head)), tuple(pairs))

    def materials(self, shown: ShownBatch) -> list[Material]:
        """What a case would show of a batch's calls."""
        receipts = tuple(receipt.struct_hash() for _, receipt in shown.calls)
        calls = self.calls[-len(shown.calls) :]
        return [
            Material(order, receipt, shown.signed, receipts, call, b"")
            for (order, receipt), call in zip(shown.calls, calls, strict=True)
        ]

    def _call(self, text: str, name: str, is_lie: bool, finished_ms: int) -> tuple[Order, Receipt]:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]}).encode()
        content = (text[::-1] if is_lie else text).encode()
        service = EchoService(EchoService.describe(MODEL))
        whole = service.answer_now(service.parse("chat.completions", body), Context())
        assert whole is not None
        order = Order(
            call_id=content_hash(self.gateway, name.encode())[:16],
            gateway=self.gateway,
            provider=self.key.account,
            service_id=SERVICE,
            lane_id=self.lane_id,
            request_hash=content_hash(SALT, body),
            prefix_hash=ZERO32,
            sampler_seed=1,
            grade=Grade.EXACT,
            price_in=1_000_000,
            price_out=1_000_000,
            max_cost=10**9,
            deadline_ms=finished_ms + 60_000,
        )
        receipt = Receipt(
            order_hash=order.struct_hash(),
            part=0,
            response_hash=content_hash(SALT, content),
            evidence_hash=ZERO32,
            units_in=whole.units_in,
            units_out=whole.units_out,
            cost=call_cost(whole.units_in, whole.units_out, order.price_in, order.price_out),
            started_ms=finished_ms - 5,
            finished_ms=finished_ms,
            finish_reason=FinishReason.STOP,
        )
        self.calls.append(ShownCall("chat.completions", body, content, SALT))
        return order, receipt
