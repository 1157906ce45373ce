"""A gateway's feed: read in order, checked batch by batch, and refused where something is left out or changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from tests.validator_world import DOMAIN, EPOCH_S, GATEWAYS, START_MS, LaneMaker

from steelyard.errors import BadMessage, BadSignature, BadTotal, PeerError
from steelyard.protocol.signing import SigningKey
from steelyard.validator.feed import FeedState, GatewayFeed, SeenCall
from steelyard.validator.gateway_client import ShownBatch

LONG = "word " * 64


class _Client:
    """Shows the batches that it was given."""

    account = GATEWAYS[0]
    url = "http://gateway.test"

    def __init__(self, batches: Sequence[ShownBatch]) -> None:
        self.batches = list(batches)

    async def fetch_batches(self, after: int, limit: int = 50) -> tuple[list[ShownBatch], int]:
        shown = [batch for batch in self.batches if batch.cursor > after][:limit]
        return shown, shown[-1].cursor if shown else after


def feed(batches: Sequence[ShownBatch], state: FeedState | None = None) -> GatewayFeed:
    """A feed over these batches."""
    return GatewayFeed(_Client(batches), DOMAIN, EPOCH_S, state)  # type: ignore[arg-type]


def read(source: GatewayFeed, limit: int = 50) -> tuple[list[SeenCall], FeedState]:
    """One read of it."""
    return asyncio.run(source.read(limit))


def test_calls_come_in_order_with_their_places_in_lane_and_epoch() -> None:
    """Long calls are counted for ever, all calls by epoch, across batches."""
    lane = LaneMaker()
    batches = [lane.add("a", LONG), lane.add(LONG, "b"), lane.add("c", finished_ms=START_MS + 1000 * EPOCH_S)]
    calls, state = read(feed(batches))
    assert [call.calls_before for call in calls] == [0, 1, 2, 3, 0]
    assert [call.long_before for call in calls] == [0, 0, 1, 2, 2]
    assert [call.epoch for call in calls] == [1_000_000] * 4 + [1_000_001]
    assert state.cursor == 3
    assert state.lanes[lane.lane.key].head == lane.head


def test_feed_read_in_pieces_gives_what_it_gives_at_once() -> None:
    """A restart after any batch goes on with the same places."""
    lane, other = LaneMaker(), LaneMaker(lane_id=2)
    batches = []
    for number in range(6):
        shown = (lane, other)[number % 2].add(LONG, f"short {number}")
        batches.append(msgspec.structs.replace(shown, cursor=number + 1))
    whole, end = read(feed(batches))
    pieces, state = [], FeedState()
    for _ in range(6):
        calls, state = read(feed(batches, state), limit=1)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=FeedState)
        pieces += calls
    assert pieces == whole
    assert state == end


def test_batch_that_is_left_out_or_shown_again_is_refused() -> None:
    """A lane that was read goes on where it was: neither a gap nor a second history passes."""
    lane, twin = LaneMaker(), LaneMaker()
    first, second, third = lane.add("a"), lane.add("b"), lane.add("c")
    twin.add("other")
    fork = twin.add("b")
    _, state = read(feed([first]))
    for batches in ([third], [msgspec.structs.replace(first, cursor=9)], [fork]):
        with pytest.raises(BadTotal, match="one is left out, or the lane has two histories"):
            read(feed(batches, state))
    assert len(read(feed([second, third], state))[0]) == 2


def forged(shown: ShownBatch, **changes: Any) -> ShownBatch:
    """The batch with its receipt or order changed, signature as it was."""
    [(order, receipt)] = shown.calls
    receipt = msgspec.structs.replace(receipt, **{k: v for k, v in changes.items() if hasattr(receipt, k)})
    order = msgspec.structs.replace(order, **{k: v for k, v in changes.items() if not hasattr(receipt, k)})
    return msgspec.structs.replace(shown, calls=((order, receipt),))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cost": 1}, BadTotal),
        ({"finish_reason": 2}, BadTotal),
        ({"response_hash": b"\x01" * 32}, BadTotal),
        ({"sampler_seed": 2}, BadMessage),
        ({"lane_id": 9}, BadMessage),
    ],
)
def test_call_that_no_provider_signed_is_refused(change: dict[str, Any], error: type[PeerError]) -> None:
    """Whatever a gateway changes in an order or a receipt, the batch doesn't open any more."""
    with pytest.raises(error):
        read(feed([forged(LaneMaker().add("a"), **change)]))


def test_batch_of_another_signer_or_gateway_is_refused() -> None:
    """A signature by anybody else, and a batch of somebody else's lane."""
    shown = LaneMaker().add("a")
    other = SigningKey(b"\x66" * 32).sign(DOMAIN.digest(shown.signed.batch.struct_hash()))
    with pytest.raises(BadSignature):
        read(feed([msgspec.structs.replace(shown, signed=msgspec.structs.replace(shown.signed, signature=other))]))
    with pytest.raises(BadMessage, match="of gateway"):
        read(feed([LaneMaker(gateway=GATEWAYS[1]).add("a")]))


def test_nothing_of_a_refused_read_is_kept() -> None:
    """The state moves by `advance` alone."""
    lane = LaneMaker()
    good, bad = lane.add("a"), forged(lane.add("b"), cost=1)
    source = feed([good, bad])
    with pytest.raises(BadTotal):
        read(source)
    assert source.state == FeedState()
