"""The desk of a process for lies that it saw: both halves on disk at once, then proven on chain, once.

   found ──on disk, told──▶ waiting ──sent, mined──▶ proven: a tenth of what the liar loses is ours
                               │ ▲ └ somebody else was first ──▶ proven by others, no error
                               │ └ the chain is silent, no coin for gas, nothing at stake: later, ever less often
                               └ refused for what it is ──▶ refused: our own defect, told loudly

1. A proof needs gas and no bond. One that would be refused now takes no gas: the sender asks first.
2. It is looked up before it is sent, and taken for a while: restarts, other processes and others' proofs are no matter.
3. A liar with nothing at stake is waited for: the contract doesn't count such a proof, and the liar may stake again.

Law: docs/spec/checking.md, section 13; docs/spec/contracts.md, section 8.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import structlog

from steelyard.chain.deployment import Deployment
from steelyard.chain.proofs import ProofsClient
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.errors import ChainError, Reverted, SteelyardError
from steelyard.protocol.lies import Lie, LieKind, decode_lie, encode_lie
from steelyard.storage.database import Database
from steelyard.storage.events import PeerEvent
from steelyard.storage.lies import LieRow, LieState, end_lie, keep_lie, load_due_lies, put_off_lie, take_lie

LOOK_S = 10.0
TAKEN_MS = 180_000
"""How long a try may last before somebody else, or this process after a restart, tries again."""

FIRST_PAUSE_MS = 2_000
LONGEST_PAUSE_MS = 600_000
NOTHING_PAUSE_MS = 600_000
FOR_WHAT_IT_IS = frozenset({"NotSignedBy", "NotInBatch", "NoContradiction"})

_log = structlog.get_logger("steelyard.chain")


class LieCourt(Protocol):
    """The chain, as far as lies are concerned; both may raise ChainError."""

    async def is_proven(self, lie_id: bytes) -> bool:
        """Say whether a lie was proven already, by anybody."""

    async def prove(self, lie: Lie) -> None:
        """Prove a lie."""


class ContractCourt:
    """`LieCourt` over the real contract; `sender` pays the gas and is the informer."""

    def __init__(self, rpc: ChainRpc, deployment: Deployment, sender: Sender) -> None:
        self._proofs = ProofsClient(rpc, deployment)
        self._sender = sender

    async def is_proven(self, lie_id: bytes) -> bool:
        """Say whether a lie was proven already, by anybody."""
        return await self._proofs.fetch_is_proven(lie_id)

    async def prove(self, lie: Lie) -> None:
        """Prove a lie."""
        await self._proofs.prove(self._sender, lie)


class FaultDesk:
    """Keeps lies and proves them; `run` for as long as the process runs.

    Args:
        court: where lies are proven; None only keeps them. now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        database: Database,
        court: LieCourt | None,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._database = database
        self._court = court
        self._now_ms = now_ms
        self._found = asyncio.Event()

    async def keep(self, lie: Lie) -> bool:
        """Have a lie on disk, to be proven soon; False if it is known already."""
        now_ms, kind = self._now_ms(), lie.kind.name.lower()
        row = LieRow(lie.id, int(lie.kind), lie.liar, encode_lie(lie), due_ms=now_ms, found_ms=now_ms)
        if not await keep_lie(self._database, row, self._event(row, "lie_found")):
            return False
        self.counts[kind, "found"] += 1
        _log.warning("lie_found", kind=kind, liar=lie.liar.hex(), id=lie.id.hex(), is_proving=self._court is not None)
        self._found.set()
        return True

    async def run(self) -> None:
        """Prove what is due, until cancelled."""
        while self._court is not None:
            self._found.clear()
            try:
                await self.beat()
            except SteelyardError as error:
                _log.warning("lies_unread", code=error.code, reason=error.message)
            except Exception:  # a supervisor: the next look may do better
                _log.exception("lies_unread")
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._found.wait()
            except TimeoutError:
                pass

    async def beat(self) -> None:
        """Try all that is due once."""
        court = self._court
        if court is None:
            return
        for row in await load_due_lies(self._database, self._now_ms()):
            if await take_lie(self._database, row, self._now_ms() + TAKEN_MS):
                await self._try(court, row)

    async def _try(self, court: LieCourt, row: LieRow) -> None:
        try:
            is_known = await court.is_proven(row.lie_id)
            if not is_known:
                await court.prove(decode_lie(row.content))
            await self._end(row, LieState.PROVEN_BY_OTHERS if is_known else LieState.PROVEN)
        except Reverted as error:
            name = error.reason.split("(")[0]
            if name == "AlreadyProven":
                await self._end(row, LieState.PROVEN_BY_OTHERS)
            elif name in FOR_WHAT_IT_IS:
                await self._end(row, LieState.REFUSED, error.message)
            else:
                await self._put_off(row, error, least_ms=NOTHING_PAUSE_MS)
        except ChainError as error:
            await self._put_off(row, error)

    async def _put_off(self, row: LieRow, error: ChainError, *, least_ms: int = 0) -> None:
        pause_ms = max(min(FIRST_PAUSE_MS << min(row.tries, 16), LONGEST_PAUSE_MS), least_ms)
        await put_off_lie(self._database, row.lie_id, self._now_ms() + pause_ms)
        self.counts[LieKind(row.kind).name.lower(), "put_off"] += 1
        _log.warning(
            "lie_waits", liar=row.liar.hex(), id=row.lie_id.hex(), pause_s=pause_ms // 1000, reason=error.message
        )

    async def _end(self, row: LieRow, state: LieState, why: str = "") -> None:
        step = state.name.lower()
        await end_lie(self._database, row.lie_id, state, self._event(row, f"lie_{step}", why))
        self.counts[LieKind(row.kind).name.lower(), step] += 1
        log = _log.error if state is LieState.REFUSED else _log.warning
        log(f"lie_{step}", kind=LieKind(row.kind).name.lower(), liar=row.liar.hex(), id=row.lie_id.hex(), reason=why)

    def _event(self, row: LieRow, code: str, why: str = "") -> PeerEvent:
        told = f"{LieKind(row.kind).name.lower()}, proof 0x{row.lie_id.hex()}"
        return PeerEvent(self._now_ms(), "0x" + row.liar.hex(), code, f"{told}: {why}" if why else told)
