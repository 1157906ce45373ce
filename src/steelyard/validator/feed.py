"""What a gateway's providers have signed, batch after batch: the list from which checks are drawn.

1. Every batch is checked as its provider's before anything is drawn from it; a gateway that shows another thing is
   passed over from there on, and the reason told.
2. A call's place in its lane follows from the batches before it, so a gateway can't shift who is a newcomer.
3. A lane is taken up where the feed begins with it (a gateway's first batches may be older than its feed); from there
   on no batch may be missing. Calls that a gateway lost in a crash can't be drawn; the chain's blobs have them.
4. All that is shown is seen by the witness first, for lies; what is refused here may be half of one.
5. How far a feed was read is kept with the verdicts, so that a restart neither repeats nor skips a call.

Law: docs/spec/validator.md, section 2.
"""

from __future__ import annotations

import msgspec

from steelyard.errors import BadTotal
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Order, Receipt
from steelyard.protocol.signing import Domain
from steelyard.validator.feed_witness import FeedWitness
from steelyard.validator.gateway_client import GatewayClient, ShownBatch
from steelyard.validator.opened import check_batch
from steelyard.verification.selection import is_long

EPOCHS_KEPT = 4


class LanePlace(msgspec.Struct, frozen=True, array_like=True):
    """How far a lane was read: batches, the head of the last one, long calls, and calls by epoch (the last few)."""

    seq: int = 0
    head: bytes = ZERO32
    long_calls: int = 0
    calls: dict[int, int] = {}


class FeedState(msgspec.Struct, frozen=True, array_like=True):
    """How far a gateway's feed was read; `lanes` by lane key."""

    cursor: int = 0
    lanes: dict[bytes, LanePlace] = {}


class SeenCall(msgspec.Struct, frozen=True):
    """A call that its provider signed for.

    Attributes:
        epoch: in which it ended. receipt_hash: the receipt's id.
        calls_before: calls of its lane and epoch before it. long_before: long calls of its lane before it.
        signed, receipts: the batch that holds it, and that batch's leaves.
    """

    gateway: bytes
    order: Order
    receipt: Receipt
    receipt_hash: bytes
    epoch: int
    calls_before: int
    long_before: int
    signed: SignedBatch
    receipts: tuple[bytes, ...]


class GatewayFeed:
    """Reads one gateway's feed from where it stopped.

    Args:
        client: of that gateway. domain, epoch_s: of the deployment. state: from the last life of this process.
        witness: sees lies in what is shown, one for all feeds; None: nobody does.
    """

    def __init__(
        self,
        client: GatewayClient,
        domain: Domain,
        epoch_s: int,
        state: FeedState | None = None,
        witness: FeedWitness | None = None,
    ) -> None:
        self.client = client
        self._witness = witness
        self.state = state or FeedState()
        self._domain = domain
        self._epoch_s = epoch_s

    async def read(self, limit: int = 50) -> tuple[list[SeenCall], FeedState]:
        """Return the calls of the next batches, and the state to keep once they are dealt with (`advance`).

        Raises:
            PeerError: the gateway shows what no provider signed, or leaves out a batch.
            Unavailable: it is silent.
        """
        batches, following = await self.client.fetch_batches(self.state.cursor, limit)
        if self._witness is not None:
            await self._witness.see(batches)
        lanes = dict(self.state.lanes)
        calls: list[SeenCall] = []
        for shown in batches:
            calls += self._take(shown, lanes)
        return calls, FeedState(following, lanes)

    def advance(self, state: FeedState) -> None:
        """Go on from there."""
        self.state = state

    def _take(self, shown: ShownBatch, lanes: dict[bytes, LanePlace]) -> list[SeenCall]:
        gateway, batch = self.client.account, shown.signed.batch
        hashes = tuple(check_batch(shown, gateway, self._domain))
        key = batch.lane.key
        last = lanes.get(key, LanePlace())
        if key in lanes and (batch.seq, batch.prev_head) != (last.seq + 1, last.head):
            raise BadTotal(
                f"gateway 0x{gateway.hex()} shows batch {batch.seq} of a lane that was read up to {last.seq}: one is "
                "left out, or the lane has two histories"
            )
        found, calls, long_calls = [], dict(last.calls), last.long_calls
        for (order, receipt), receipt_hash in zip(shown.calls, hashes, strict=True):
            epoch = receipt.finished_ms // (1000 * self._epoch_s)
            before = calls.get(epoch, 0)
            found.append(
                SeenCall(gateway, order, receipt, receipt_hash, epoch, before, long_calls, shown.signed, hashes)
            )
            calls[epoch] = before + 1
            long_calls += is_long(receipt)
        kept = dict(sorted(calls.items())[-EPOCHS_KEPT:])
        lanes[key] = LanePlace(batch.seq, self._domain.digest(batch.struct_hash()), long_calls, kept)
        return found
