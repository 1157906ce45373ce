"""New heads: no duplicate, no gap, a reorganisation once."""

from __future__ import annotations

import json

import pytest

from steelyard.errors import BadMessage
from steelyard.gateway.relay_heads import (
    HEADS_KEPT,
    MAX_MISSING,
    MAX_STEP,
    Head,
    HeadLine,
    head_of_block,
    read_head,
    require_linked,
)


def head(number: int, fork: str = "a", parent_fork: str | None = None) -> Head:
    """Return the head at a height on a fork."""
    return Head(number, f"{fork}{number}", f"{parent_fork or fork}{number - 1}", b"")


def line_of(*heads: Head) -> HeadLine:
    """Return a line that sent these."""
    line = HeadLine()
    for one in heads:
        line.note(one)
    return line


def test_first_head_is_sent_as_it_is() -> None:
    """A subscription begins where its first head is."""
    assert HeadLine().missing([head(7)], is_new_source=True) is None


def test_next_head_and_reorganisation_of_one_source_need_nothing() -> None:
    """What a node says in its own order is passed on."""
    line = line_of(head(7), head(8))
    assert line.missing([head(9)], is_new_source=False) is None
    assert line.missing([head(8, "b")], is_new_source=False) is None
    assert line.is_sent(head(8))
    assert not line.is_sent(head(8, "b"))


def test_gap_asks_for_the_missing_heights_in_steps() -> None:
    """All between the last one sent and the one that came, at most a step at once, the nearest first."""
    line = line_of(head(7))
    assert line.missing([head(10)], is_new_source=False) == (8, 9)
    assert line.missing([head(8), head(9), head(10)], is_new_source=False) is None
    far = 7 + 2 * MAX_STEP
    assert line.missing([head(far)], is_new_source=False) == (far - MAX_STEP, far - 1)


def test_gap_over_a_reorganisation_is_followed_back_to_the_common_block() -> None:
    """Another provider whose chain left ours earlier: its blocks from the fork on are fetched."""
    line = line_of(*(head(n) for n in range(1, 8)))
    forked = head(8, "b")
    assert line.missing([forked], is_new_source=True) == (6, 7)
    chain = [head(6, "b"), head(7, "b"), forked]
    assert line.missing(chain, is_new_source=True) == (1, 5)
    joined = [head(5), head(6, "b", "a"), head(7, "b"), forked]
    assert line.missing(joined, is_new_source=True) is None


def test_gap_too_wide_is_refused() -> None:
    """A huge height draws no thousand orders."""
    with pytest.raises(BadMessage, match="gaps are filled up to"):
        line_of(head(7)).missing([head(8 + MAX_MISSING)], is_new_source=False)


def test_line_forgets_the_oldest() -> None:
    """Memory is bounded."""
    line = line_of(*(head(n) for n in range(HEADS_KEPT + 1)))
    assert not line.is_sent(head(0))
    assert line.is_sent(head(1))


def test_unlinked_chain_is_refused() -> None:
    """A filled gap must join by parent hash."""
    require_linked([head(1), head(2), head(3)])
    for chain in ([head(1), head(3)], [head(1), head(2, "b")]):
        with pytest.raises(BadMessage, match="does not follow"):
            require_linked(chain)


def test_block_becomes_the_head_that_newheads_shows() -> None:
    """Transactions, uncles, withdrawals and size are no part of a head."""
    block = {"number": "0x1f", "hash": "0xaa", "parentHash": "0xbb", "transactions": [], "size": "0x1", "x": 1}
    made = head_of_block(json.dumps(block).encode())
    assert (made.number, made.hash, made.parent) == (31, "0xaa", "0xbb")
    assert json.loads(made.raw) == {"number": "0x1f", "hash": "0xaa", "parentHash": "0xbb", "x": 1}


@pytest.mark.parametrize("raw", [b"null", b"[]", b"{}", b'{"number":"z","hash":"","parentHash":""}', b"{", b"\xff"])
def test_malformed_head_is_the_providers_breach(raw: bytes) -> None:
    """Whatever is no head is refused as such."""
    for read in (read_head, head_of_block):
        with pytest.raises(BadMessage):
            read(raw)
