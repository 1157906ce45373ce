"""The small parts: marks, tags, randomness, lanes' state, positions, replies, settings."""

from __future__ import annotations

import json

import pytest

from steelyard.errors import BadRequest, ConfigError, PaymentRequired, RateLimited, Unavailable
from steelyard.gateway.call_marks import call_nonce, key_mark, mark_call, read_mark
from steelyard.gateway.chain_view import EscrowState, LanePaid, Position
from steelyard.gateway.crashes import describe_crash
from steelyard.gateway.order_tags import OrderTagger
from steelyard.gateway.pay_lane import HEADS_KEPT, PayLane
from steelyard.gateway.randomness import RandomPool
from steelyard.gateway.replies import error_reply, fault_reply
from steelyard.gateway.settings import GatewaySettings
from steelyard.protocol.lanes import LaneState, SignedBatch, sign_voucher
from steelyard.protocol.messages import Batch, Lane, order_tag
from steelyard.protocol.signing import Domain, SigningKey

SECRET = b"\x09" * 32
KEY = SigningKey(b"\x01" * 32)
LANE = Lane(KEY.account, b"\x02" * 20, b"\x03" * 32, 7)


def test_call_id_tells_its_key_to_us_alone() -> None:
    """With the secret the mark comes back; two calls of one key look unrelated."""
    mark = key_mark("key_1")
    first, second = mark_call(SECRET, b"\x01" * 8, mark), mark_call(SECRET, b"\x02" * 8, mark)
    assert read_mark(SECRET, first) == read_mark(SECRET, second) == mark
    assert read_mark(b"\x08" * 32, first) != mark
    assert len(first) == 16
    assert first[8:] != second[8:]


def test_call_ids_of_one_moment_lie_together() -> None:
    """The time leads in steps of 4 ms, whatever is random; after 2^24 steps it begins again."""
    early, late = call_nonce(1_700_000_000_000, b"\xff" * 5), call_nonce(1_700_000_000_004, b"\x00" * 5)
    assert early < late
    assert early[:3] == call_nonce(1_700_000_000_003, b"\x00" * 5)[:3]
    assert call_nonce(2**24 * 4 + 8, b"r" * 5) == call_nonce(8, b"r" * 5) == b"\x00\x00\x02rrrrr"


def test_order_tagger_gives_the_protocols_tags() -> None:
    """Faster, and the same bytes."""
    tag = OrderTagger(SECRET)
    for number in range(5):
        order_hash = bytes([number]) * 32
        assert tag(order_hash) == order_tag(SECRET, order_hash)


def test_random_pool_gives_no_byte_twice() -> None:
    """Every byte that the system drew is handed out at most once, also across refills."""
    drawn: list[bytes] = []

    def draw(count: int) -> bytes:
        drawn.append(bytes([len(drawn) + 1]) * 2 + bytes(count - 2))
        return drawn[-1]

    pool = RandomPool(draw)
    taken = [pool.take(48) for _ in range(200)]
    assert all(len(part) == 48 for part in taken)
    assert len(drawn) == 3
    assert sum(part[:2] == b"\x01\x01" for part in taken) == 1


def _lane(count: int = 0, cumulative: int = 0) -> PayLane:
    return PayLane(LANE.key, LaneState(lane=LANE, seq=1, head=b"\x05" * 32, count=count, cumulative=cumulative))


def test_voucher_is_due_by_count_value_or_age() -> None:
    """And never for a lane with nothing unsigned, or one whose history still comes."""
    lane = _lane(10, 100)
    assert not lane.is_due(100.0, 1, 1, 0.0)
    lane.unsigned_since_s = 5.0
    assert not lane.is_due(5.5, 11, 101, 1.0)
    assert lane.is_due(5.5, 10, 101, 1.0)
    assert lane.is_due(5.5, 11, 100, 1.0)
    assert lane.is_due(6.0, 11, 101, 1.0)
    lane.is_claiming = True
    assert not lane.is_due(6.0, 1, 1, 0.0)


def test_signed_lane_waits_for_the_next_batch() -> None:
    """What came while a voucher was being written is due later; otherwise nothing is."""
    lane = _lane(10, 100)
    lane.unsigned_since_s = 1.0
    signed = sign_voucher(lane.state, KEY, Domain(1, b"\x05" * 32))
    lane.note_signed(signed, 2.0)
    assert (lane.signed_nano, lane.signed_count, lane.unsigned_since_s) == (100, 10, None)
    lane.state = LaneState(lane=LANE, seq=2, head=b"\x06" * 32, count=11, cumulative=120)
    lane.note_signed(signed, 3.0)
    assert lane.unsigned_since_s == 3.0


def test_repeated_batch_is_known_by_its_head() -> None:
    """A batch with an old number and another head is no repeat; one older than we remember is taken for one."""
    lane = PayLane(LANE.key, LaneState(lane=LANE))
    for seq in range(1, HEADS_KEPT + 11):
        head = seq.to_bytes(32, "big")
        lane.advance(LaneState(lane=LANE, seq=seq, head=head, count=seq, cumulative=seq), (), 0.0)

    def repeats(seq: int, head: bytes) -> bool:
        batch = Batch(LANE.gateway, LANE.provider, LANE.service_id, LANE.lane_id, seq, b"", b"", 1, seq)
        return lane.is_repeat(SignedBatch(batch, b""), head)

    last = HEADS_KEPT + 10
    assert repeats(last, last.to_bytes(32, "big"))
    assert not repeats(last, b"\xff" * 32)
    assert not repeats(last + 1, b"\xff" * 32)
    assert repeats(1, b"\xff" * 32)
    assert len(lane.heads) == HEADS_KEPT


@pytest.mark.parametrize(
    ("deposit", "owed", "withdrawal", "lanes", "reserve", "budget"),
    [
        (100, 0, 0, [], 0, 100),
        (60, 0, 0, [(40, 40)], 0, 100),
        (60, 0, 10, [(40, 40)], 20, 70),
        (0, 30, 0, [(130, 100)], 0, 100),
        (50, 30, 0, [(40, 40)], 0, 60),
        (10, 0, 50, [], 0, 0),
    ],
)
def test_escrow_budget_counts_each_nano_once(
    deposit: int, owed: int, withdrawal: int, lanes: list[tuple[int, int]], reserve: int, budget: int
) -> None:
    """Paid and left, without withdrawals and debts elsewhere; debts on these lanes are spent already."""
    escrow = EscrowState(deposit, owed, withdrawal, 0)
    position = Position(escrow, tuple(LanePaid(accepted, paid) for accepted, paid in lanes))
    assert position.budget_nano(reserve) == budget


def test_error_replies_have_openais_shape() -> None:
    """Message, type, param and code; Retry-After in whole seconds; no retry of an empty purse."""
    reply = error_reply(RateLimited("slow down", retry_after_s=1.2))
    assert reply.status == 429
    assert (b"retry-after", b"2") in reply.headers
    assert json.loads(reply.body)["error"] == {
        "message": "slow down",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert (b"x-should-retry", b"false") in error_reply(PaymentRequired("empty")).headers
    assert json.loads(error_reply(BadRequest("x", param="n")).body)["error"]["param"] == "n"
    assert error_reply(Unavailable("x")).status == 503
    assert b"fault_1" in fault_reply("fault_1").body


def test_crash_is_described_without_values() -> None:
    """Type and frames; the message only if it is one of ours."""
    try:
        raise ValueError("canary")
    except ValueError as error:
        told = describe_crash(error)
    assert told["error"] == "ValueError"
    assert "canary" not in str(told)
    assert "reason" in describe_crash(BadRequest("ours"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"process": "Bad Name"},
        {"port": 70_000},
        {"link_port": -1},
        {"max_attempts": 0},
        {"key_check_s": 2},
        {"watch_s": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    """One line that names the setting and its value."""
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        GatewaySettings(**wrong)  # type: ignore[arg-type]
