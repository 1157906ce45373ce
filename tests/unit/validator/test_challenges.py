"""When a validator opens a case: on evidence that it would itself convict on, once, and not again too soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.validator_world import DOMAIN, GATEWAYS, PROVIDER, SERVICE, START_MS, LaneMaker, echo_checkable

from steelyard.chain.cases import Case, CaseKind, Claim, Phase, Ruling, Standing
from steelyard.protocol.cid import Cid
from steelyard.protocol.messages import Outcome
from steelyard.protocol.signing import SigningKey
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import open_database
from steelyard.validator.backroom import Backroom
from steelyard.validator.book import Book, open_book
from steelyard.validator.case_file import decode_case, encode_material
from steelyard.validator.challenges import Challenges
from steelyard.validator.checker import Checkable, check_call
from steelyard.validator.feed import FeedState, SeenCall

ME = SigningKey(b"\x44" * 32)
PAIR = (PROVIDER.account, SERVICE)


@dataclass
class _Court:
    """What the chain says, and what was opened on it."""

    standing: Standing = field(default_factory=lambda: Standing(0, 0))
    at_stake: int = 100
    opened: list[tuple[Any, ...]] = field(default_factory=list)

    async def fetch_standing(self, kind: CaseKind, accused: bytes, topic: bytes) -> Standing:
        return self.standing

    async def fetch_at_stake(self, account: bytes, role: object) -> int:
        return self.at_stake

    async def fetch_compensated(self, key: bytes) -> int:
        return 0

    async def open_case(self, sender: object, *given: Any) -> int:
        self.opened.append(given)
        return len(self.opened)


class _Escrow:
    async def fetch_lane(self, key: bytes) -> Any:
        class Totals:
            paid_nano = 10**9

        return Totals()


class World:
    """A validator's book and its challenges, on a chain that is a few numbers."""

    def __init__(self, book: Book, folder: Path) -> None:
        self.now_s = START_MS // 1000
        self.book = book
        self.court, self.backroom = _Court(), Backroom()
        self.blobs = FolderBlobs(folder)
        self.lanes = [LaneMaker(gateway) for gateway in GATEWAYS]
        self.challenges = self.build()

    def build(self) -> Challenges:
        """Challenges as after a start."""
        parts: tuple[Any, ...] = (self.book, self.blobs, self.court, _Escrow(), None, DOMAIN, self.find, self.backroom)
        return Challenges(*parts)

    async def find(self, service_id: bytes) -> Checkable:
        """Echo, exactly."""
        return echo_checkable()

    async def audit(self, *lies: bool, gateways: int = 2) -> None:
        """Check answers over the gateways in turn."""
        for number, is_lie in enumerate(lies):
            lane = self.lanes[number % gateways]
            [material] = lane.materials(
                lane.add(f"words {self.now_s} {number}", is_lie=is_lie, finished_ms=self.now_s * 1000)
            )
            order, receipt = material.order, material.receipt
            checked = await check_call(order, receipt, echo_checkable(), _give(material.call), _give(b""))
            call = SeenCall(
                order.gateway, order, receipt, receipt.struct_hash(), 1, 0, 0, material.signed, material.receipts
            )
            found = (call, "newcomer", checked, encode_material(material))
            await self.book.record(order.gateway, FeedState(cursor=lane.cursor), [found])

    async def beat(self) -> int:
        """Two looks, so that what was begun beside the first is picked up; return how many cases were opened."""
        before = len(self.court.opened)
        for _ in range(2):
            await self.challenges.beat()
            await asyncio.sleep(0.02)
        await self.challenges.beat()
        return len(self.court.opened) - before


def _give(value: Any) -> Callable[[], Awaitable[Any]]:
    async def give() -> Any:
        return value

    return give


def tell(folder: Path, story: Callable[[World], Awaitable[None]]) -> None:
    """Run a story in a world of its own."""

    async def run() -> None:
        database = await open_database(f"sqlite:///{folder}/validator.db")
        worlds: list[World] = []
        book = await open_book(database, ME, DOMAIN, lambda: worlds[0].now_s * 1000)
        worlds.append(World(book, folder / "blobs"))
        try:
            await story(worlds[0])
        finally:
            await worlds[0].backroom.aclose()
            await database.aclose()

    asyncio.run(run())


def closed(ruling: Ruling, opened_at_s: int) -> Case:
    """A case against the provider that ended so."""
    accused, service = PAIR
    times = {"opened_at_s": opened_at_s, "since_s": 0, "epoch": 1, "appeal_until_s": 0}
    return Case(
        accused=accused,
        kind=CaseKind.CHEAT,
        phase=Phase.CLOSED,
        ruling=ruling,
        is_appealed=False,
        draws=0,
        challenger=ME.account,
        topic=service,
        evidence=b"\x01" * 32,
        **times,
    )


def test_case_is_opened_once_on_lies_over_two_gateways(tmp_path: Path) -> None:
    """The file holds every weighed answer, the claims what the lies cost; no second case while nothing is new."""

    async def story(world: World) -> None:
        await world.audit(True, True, False)
        assert await world.beat() == 1
        kind, accused, topic, _, claims = world.court.opened[0]
        assert (kind, accused, topic) == (CaseKind.CHEAT, *PAIR)
        blob = next(path.read_bytes() for path in (tmp_path / "blobs").rglob("bafk*"))
        case = decode_case(blob)
        assert (case.first, len(case.answers)) == (1, 3)
        cost = {answer.order.lane: answer.receipt.cost for answer in case.answers[:2]}
        assert sorted(claims, key=str) == sorted((Claim(lane, nano) for lane, nano in cost.items()), key=str)
        assert await world.beat() == 0

    tell(tmp_path, story)


@pytest.mark.parametrize("lies", [(False,) * 6, (True,), ()])
def test_no_case_without_enough_evidence(tmp_path: Path, lies: tuple[bool, ...]) -> None:
    """Honest answers, or one lie."""

    async def story(world: World) -> None:
        await world.audit(*lies)
        assert await world.beat() == 0

    tell(tmp_path, story)


def test_no_case_on_one_gateways_calls(tmp_path: Path) -> None:
    """However many lies it shows."""

    async def story(world: World) -> None:
        await world.audit(*(True,) * 6, gateways=1)
        assert await world.beat() == 0

    tell(tmp_path, story)


def test_no_case_while_one_is_open_or_nothing_is_at_stake(tmp_path: Path) -> None:
    """Each alone holds it back; it comes when both are past."""

    async def story(world: World) -> None:
        await world.audit(True, True)
        world.court.standing = Standing(1, 0)
        assert await world.beat() == 0
        world.court.standing, world.court.at_stake = Standing(0, 0), 0
        assert await world.beat() == 0
        world.court.at_stake = 1
        assert await world.beat() == 1

    tell(tmp_path, story)


def test_what_was_convicted_is_settled_and_a_bond_is_not_wasted_on_too_little_after_it(tmp_path: Path) -> None:
    """After a conviction one lie more is no case, though the suspicion is high; lies over both gateways are."""

    async def story(world: World) -> None:
        await world.audit(True, True)
        assert await world.beat() == 1
        world.now_s += 10
        world.court.standing = Standing(0, world.now_s)
        assert await world.beat() == 0
        world.now_s += 1
        await world.audit(True)
        assert world.book.due() == [PAIR]
        assert await world.beat() == 0
        await world.audit(True, True)
        assert await world.beat() == 1

    tell(tmp_path, story)


def test_next_case_after_an_acquittal_needs_eight_new_answers(tmp_path: Path) -> None:
    """Also for a validator that started anew, and had not seen the case itself."""

    async def story(world: World) -> None:
        await world.audit(True, True)
        assert await world.beat() == 1
        world.challenges = world.build()
        world.challenges.learn(closed(Ruling.ACQUITTED, world.now_s + 1))
        world.now_s += 5
        await world.audit(*(True,) * 7)
        assert await world.beat() == 0
        await world.audit(True)
        assert await world.beat() == 1

    tell(tmp_path, story)


def test_verdicts_count_before_and_after_a_restart_alike(tmp_path: Path) -> None:
    """The book is read back as it was: the same suspicion, the same numbers, the same case."""

    async def story(world: World) -> None:
        await world.audit(True, False)
        again = await open_book(world.book._database, ME, DOMAIN, lambda: world.now_s * 1000)
        assert again.suspicions == world.book.suspicions
        world.book = again
        await world.audit(False, True)
        assert [row.number for row in await again.verdicts_on(PAIR)] == [1, 2, 3, 4]
        assert [Outcome(row.outcome) for row in await again.verdicts_on(PAIR)].count(Outcome.FAIL) == 2
        world.challenges = world.build()
        assert await world.beat() == 1

    tell(tmp_path, story)


def test_calls_behind_old_verdicts_are_dropped_and_the_verdicts_stay(tmp_path: Path) -> None:
    """Thirty days on, an old lie can't be shown any more; a new one opens a case by itself."""

    async def story(world: World) -> None:
        await world.audit(False, True)
        world.now_s += 31 * 86_400
        await world.audit(True, True)
        await world.book.forget(30)
        verdicts = await world.book.verdicts(1)
        assert [row.material is None for row in verdicts] == [True, True, False, False]
        assert [row.outcome for row in verdicts] == [Outcome.PASS, *[Outcome.FAIL] * 3]
        assert await world.beat() == 1
        blob = await world.blobs.get(Cid(world.court.opened[0][3]))
        assert len(decode_case(blob).answers) == 2

    tell(tmp_path, story)
