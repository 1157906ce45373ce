"""What a validator sees signed twice in gateways' feeds: kept and told once; honest feeds hold no lie."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.databases import KINDS, open_test_database
from tests.lie_court import MemoryCourt
from tests.validator_world import DOMAIN, EPOCH_S, GATEWAYS, PROVIDER, LaneMaker

from steelyard.chain.fault_desk import FaultDesk
from steelyard.errors import PeerError
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.lies import LieKind
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.signing import SigningKey
from steelyard.storage.database import Database
from steelyard.storage.lies import load_lies
from steelyard.validator.feed import GatewayFeed
from steelyard.validator.feed_witness import DAY_MS, FeedWitness
from steelyard.validator.gateway_client import ShownBatch


@dataclass
class Client:
    """A gateway that shows what it is given."""

    batches: Sequence[ShownBatch]
    account: bytes = GATEWAYS[0]

    async def fetch_batches(self, after: int, limit: int = 50) -> tuple[list[ShownBatch], int]:
        """Show a page."""
        return list(self.batches[after : after + limit]), min(after + limit, len(self.batches))


@dataclass
class Room:
    """A witness before a court that is a dictionary."""

    database: Database
    court: MemoryCourt = field(default_factory=MemoryCourt)
    now_ms: int = 10 * DAY_MS

    def __post_init__(self) -> None:
        self.desk = FaultDesk(self.database, self.court, now_ms=lambda: self.now_ms)
        self.witness = FeedWitness(self.database, DOMAIN, self.desk, now_ms=lambda: self.now_ms)

    async def read(self, *batches: ShownBatch, gateway: bytes = GATEWAYS[0]) -> None:
        """Read a feed from its beginning; what it refuses is refused after it was seen."""
        feed = GatewayFeed(Client(batches, gateway), DOMAIN, EPOCH_S, None, self.witness)  # type: ignore[arg-type]
        with contextlib.suppress(PeerError):
            await feed.read()

    async def kinds(self) -> list[LieKind]:
        """Which lies are kept."""
        return sorted(LieKind(row.kind) for row in await load_lies(self.database))


@asynccontextmanager
async def open_room(kind: str = "sqlite") -> AsyncIterator[Room]:
    """Give a witness that saw nothing yet."""
    async with open_test_database(kind) as database:
        yield Room(database)


def sign_again(shown: ShownBatch, key: SigningKey = PROVIDER, **changes: Any) -> ShownBatch:
    """Return a batch signed again with other fields, without its calls."""
    batch = msgspec.structs.replace(shown.signed.batch, **changes)
    return ShownBatch(shown.cursor, SignedBatch(batch, key.sign(DOMAIN.digest(batch.struct_hash()))), ())


@pytest.mark.parametrize("kind", KINDS)
def test_rewritten_history_is_seen_by_who_read_the_first(kind: str) -> None:
    """The same orders answered otherwise: the batch and each receipt are lies, proven once whoever shows them again."""

    async def story() -> None:
        async with open_room(kind) as room:
            first, other = LaneMaker(), LaneMaker()
            await room.read(first.add("one"), first.add("two", "three"))
            rewritten = [other.add("one"), other.add("two", "three", is_lie=True)]
            await room.read(*rewritten)
            await room.read(*rewritten)
            assert await room.kinds() == [LieKind.TWO_RECEIPTS] * 2 + [LieKind.TWO_BATCHES]
            await room.desk.beat()
            assert len(room.court.sent) == 3
            assert {lie.liar for lie in room.court.sent} == {PROVIDER.account}

    asyncio.run(story())


def test_order_billed_twice_on_one_lane_is_seen_however_far_apart() -> None:
    """A lax gateway took it: the batches follow each other, the receipts contradict each other."""

    async def story() -> None:
        async with open_room() as room:
            lane = LaneMaker()
            honest = lane.add("one")
            between = [lane.add(f"text {number}") for number in range(5)]
            order, receipt = honest.calls[0]
            changed = msgspec.structs.replace(receipt, response_hash=b"\x01" * 32)
            root = merkle_root([changed.struct_hash()])
            batch = between[-1].signed.batch
            last = sign_again(
                between[-1], seq=batch.seq + 1, prev_head=lane.head, receipts_root=root,
                cumulative=batch.cumulative + changed.cost,
            )  # fmt: skip
            last = msgspec.structs.replace(last, calls=((order, changed),))
            await room.read(honest, *between)
            await room.read(honest, *between, last)
            assert await room.kinds() == [LieKind.TWO_RECEIPTS]

    asyncio.run(story())


def test_order_of_one_gateway_in_a_batch_of_another_is_seen() -> None:
    """Two gateways' feeds, one order: each feed alone is well signed, and together they are a lie."""

    async def story() -> None:
        async with open_room() as room:
            honest = LaneMaker().add("one")
            order, receipt = honest.calls[0]
            changed = msgspec.structs.replace(receipt, cost=receipt.cost + 1)
            other = LaneMaker(gateway=GATEWAYS[1]).add("else")
            root = merkle_root([changed.struct_hash()])
            moved = msgspec.structs.replace(sign_again(other, receipts_root=root), calls=((order, changed),))
            await room.read(honest)
            await room.read(moved, gateway=GATEWAYS[1])
            assert await room.kinds() == [LieKind.TWO_RECEIPTS]

    asyncio.run(story())


@pytest.mark.parametrize(
    "changes", [{"seq": 1}, {"prev_head": b"\x01" * 32}, {"cumulative": 1}, {"seq": 9, "cumulative": 1}]
)
def test_batch_off_its_lanes_path_is_seen(changes: dict[str, Any]) -> None:
    """One number twice, another previous head, a lower total, far ahead too; a batch without calls is enough."""

    async def story() -> None:
        async with open_room() as room:
            lane = LaneMaker()
            first, second = lane.add("one", "more"), lane.add("two")
            await room.read(first)
            await room.read(sign_again(second, **changes))
            assert await room.kinds() == [LieKind.TWO_BATCHES]

    asyncio.run(story())


def test_what_a_gateway_makes_up_accuses_nobody() -> None:
    """Unsigned batches, receipts that aren't under the root, totals beyond all bounds: nothing is believed of them."""

    async def story() -> None:
        async with open_room() as room:
            lane = LaneMaker()
            first, second = lane.add("one"), lane.add("two")
            await room.read(first, second)
            order, receipt = first.calls[0]
            changed = msgspec.structs.replace(receipt, cost=receipt.cost + 1)
            await room.read(sign_again(second, SigningKey(b"\x77" * 32), cumulative=1))
            await room.read(sign_again(second, cumulative=2**100))
            third = lane.add("three")
            await room.read(first, second, msgspec.structs.replace(third, calls=((order, changed),)))
            assert await room.kinds() == []

    asyncio.run(story())


def test_honest_feeds_hold_no_lie() -> None:
    """Read again from the start, in parts, by other feeds, with calls lost, and after what was seen is forgotten."""

    async def story() -> None:
        async with open_room() as room:
            lanes = [LaneMaker(gateway=gateway, lane_id=number) for gateway in GATEWAYS for number in (1, 2)]
            shown: dict[bytes, list[ShownBatch]] = {gateway: [] for gateway in GATEWAYS}
            for number in range(4):
                for lane in lanes:
                    shown[lane.gateway].append(lane.add(f"{lane.lane_id} {number}", "x"))
            for gateway, batches in shown.items():
                await room.read(*batches, gateway=gateway)
                await room.read(*batches[3:], gateway=gateway)
                await room.read(*(msgspec.structs.replace(each, calls=()) for each in batches), gateway=gateway)
                await room.read(*reversed(batches), gateway=GATEWAYS[0])
            room.now_ms += 8 * DAY_MS
            for gateway, batches in shown.items():
                await room.read(*batches[2:], gateway=gateway)
                await room.read(*batches, gateway=gateway)
            assert await room.kinds() == []

    asyncio.run(story())
