"""New heads as one client saw them: what is new, what was sent, and what is missing in between.

situation                                              what the client gets
-----------------------------------------------------  ------------------------------------------------
a head that was sent                                   nothing
the next height, or a lower one with a new hash        it (a reorganisation is passed on once)
a height beyond the next                               the missing ones first, fetched by number
the first head of another provider, parent unknown     the blocks back to the last common one, then it

1. Everything here is pure; who fetches is relay_feed.py. Heads are a provider's claims, and untrusted.
2. Missing blocks must link by parent hash, up to the head that showed the gap: else one of the two is not believed.
3. Remembered are the last `HEADS_KEPT` heads.

Law: docs/spec/relay.md, section 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from steelyard.errors import BadMessage

HEADS_KEPT = 256
MAX_MISSING = 1_024
"""The widest gap that is filled; beyond it the subscription is given up with a clear word."""

MAX_STEP = 32
"""Blocks fetched by one order."""

MAX_REORG = 64
"""How far back the common ancestor is looked for."""

_NOT_IN_HEADS = ("transactions", "uncles", "withdrawals", "size", "totalDifficulty")


class Head(msgspec.Struct, frozen=True):
    """What links a block to its chain; `raw` is its JSON as a client gets it."""

    number: int
    hash: str
    parent: str
    raw: bytes


class _Fields(msgspec.Struct):
    number: str
    hash: str
    parentHash: str


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def read_head(raw: bytes) -> Head:
    """Return a notification's head; raises BadMessage for what is none."""
    try:
        fields = _decode_fields(raw)
        number = int(fields.number, 16)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadMessage(f"a new head has no number, hash or parentHash: {str(error)[:100]}") from error
    if number < 0:
        raise BadMessage(f"a new head has number {fields.number[:40]!r}")
    return Head(number, fields.hash, fields.parentHash, raw)


def head_of_block(raw: bytes) -> Head:
    """Return the head of a whole block, as `newHeads` shows it; raises BadMessage for what is no block."""
    try:
        fields = _decode_object(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"a block is no JSON object: {str(error)[:100]}") from error
    for name in _NOT_IN_HEADS:
        fields.pop(name, None)
    return read_head(_encode(fields))


class HeadLine:
    """The heads that one subscription has sent, the newest last."""

    __slots__ = ("_hashes", "_sent", "last")

    def __init__(self) -> None:
        self._sent: deque[Head] = deque()
        self._hashes: set[str] = set()
        self.last: Head | None = None

    def is_sent(self, head: Head) -> bool:
        """Whether the client has it."""
        return head.hash in self._hashes

    def missing(self, chain: Sequence[Head], *, is_new_source: bool) -> tuple[int, int] | None:
        """Return the heights (first, last) to be fetched before a linked chain of heads can be sent, or None.

        Args:
            chain: the head that came, behind what was fetched for it so far, ascending.
            is_new_source: nothing of its provider was sent yet, so that its past may differ from what was sent.

        Raises:
            BadMessage: the gap is wider than `MAX_MISSING`.
        """
        last, first = self.last, chain[0]
        if last is None:
            return None
        if first.number > last.number + 1:
            if chain[-1].number - last.number > MAX_MISSING:
                raise BadMessage(
                    f"head {chain[-1].number} is {chain[-1].number - last.number} above the last one, and gaps are "
                    f"filled up to {MAX_MISSING}"
                )
            return max(last.number + 1, first.number - MAX_STEP), first.number - 1
        has_gap = len(chain) > 1 or is_new_source
        is_joined = first.parent in self._hashes or first.hash in self._hashes
        if not has_gap or is_joined or first.number <= self._floor(last):
            return None
        return max(self._floor(last), first.number - min(MAX_STEP, 2 * len(chain))), first.number - 1

    def note(self, head: Head) -> None:
        """Remember a head that is sent now."""
        self._sent.append(head)
        self._hashes.add(head.hash)
        self.last = head
        if len(self._sent) > HEADS_KEPT:
            self._hashes.discard(self._sent.popleft().hash)

    def _floor(self, last: Head) -> int:
        """The lowest height at which something unknown may be looked for."""
        return max(last.number - MAX_REORG, self._sent[0].number)


def require_linked(chain: Sequence[Head]) -> None:
    """Raise BadMessage unless each head is the parent of the next one."""
    for parent, child in pairwise(chain):
        if child.number != parent.number + 1 or child.parent != parent.hash:
            raise BadMessage(f"block {child.number} does not follow block {parent.number}")
