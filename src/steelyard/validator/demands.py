"""Evidence that was not served: asked for again, then demanded on chain, and the check finished with what came.

step      what happens                                                           then
--------  ---------------------------------------------------------------------  ----------------------------------
asked     the gateway's relay failed once; after a while it is asked again        judged, or wanted
wanted    the gateway consents, and a demand with a bond is sent                  open; without consent: ABSTAIN
open      served on chain: the chunks are read from the events                    judged
open      the provider lets the deadline pass: anyone closes, stake is slashed    FAIL, `silent`

1. A provider that serves on chain keeps the bond, so only so many demands are open, and sent in an epoch, at once.
2. Each step is on disk before the next begins, and the chain knows the rest: a restart goes on where it was, and finds
   a demand that somebody else sent.
3. Silence is proven by the chain and slashed there. It says nothing to a panel, and moves no suspicion.

Law: docs/spec/validator.md, section 3; docs/spec/contracts.md, section 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from functools import partial

import msgspec
import structlog

from steelyard.chain.indexer import fetch_events
from steelyard.chain.proofs import BatchedReceipt, Demand, DemandState, ProofsClient, demand_id
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.errors import Reverted, Unavailable
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.messages import Outcome
from steelyard.storage.database import Database
from steelyard.storage.waiting import WaitingRow, load_waiting, move_waiting
from steelyard.validator.book import SILENT, Book, material_of
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.feed import SeenCall
from steelyard.validator.gateway_client import GatewayClient, ShownCall
from steelyard.validator.juror import given
from steelyard.verification.verdict import Judgement, Lack

PATIENCE_S = 30
"""How long after the first failure the relay is asked again: an honest node may be starting anew."""

MOST_OPEN = 4
MOST_PER_EPOCH = 16
MOST_AT_ONCE = 64
"""Checks that a beat works on; the rest wait, and are given up in time."""

RELAY_CODES = frozenset({"evidence_timeout", "evidence_busy", "link_down", "link_lost"})
"""What a gateway says of a provider that can't be asked: to the validator the evidence wasn't served."""

_log = structlog.get_logger("steelyard.validator")


class Step(IntEnum):
    """How far a check that waits is."""

    ASKED = 0
    WANTED = 1
    OPEN = 2


class Waiting(msgspec.Struct, frozen=True):
    """A call that is checked once its evidence is there."""

    call: SeenCall
    selected_by: str
    shown: ShownCall


async def relay_evidence(client: GatewayClient, receipt_hash: bytes) -> bytes | None:
    """Return the evidence as a gateway relays it; None: its provider did not serve it.

    Raises:
        Unavailable: the gateway itself is silent.
    """
    try:
        return await client.fetch_evidence(receipt_hash)
    except Unavailable as error:
        if error.code in RELAY_CODES:
            return None
        raise


def begin_waiting(call: SeenCall, selected_by: str, shown: ShownCall) -> WaitingRow:
    """Return what is kept of a check whose evidence was not served."""
    return WaitingRow(call.receipt_hash, call.epoch, msgspec.msgpack.encode(Waiting(call, selected_by, shown)))


class Demands:
    """Works off the checks that wait.

    Args:
        clients: of the gateways, by account. sender: the validator's. checkables: how a service is checked here.
        from_block: of the deployment. keep_s: seconds after a call in which its evidence may be demanded.
    """

    def __init__(
        self,
        book: Book,
        database: Database,
        rpc: ChainRpc,
        proofs: ProofsClient,
        sender: Sender,
        clients: Mapping[bytes, GatewayClient],
        checkables: Callable[[bytes], Awaitable[Checkable | None]],
        *,
        from_block: int,
        keep_s: int,
        epoch_s: int,
        patience_s: int = PATIENCE_S,
    ) -> None:
        self._book = book
        self._database = database
        self._rpc = rpc
        self._proofs = proofs
        self._sender = sender
        self._clients = clients
        self._checkables = checkables
        self._from_block = from_block
        self._keep_s = keep_s
        self._epoch_s = epoch_s
        self._patience_s = patience_s
        self._sent: Counter[int] = Counter()

    async def beat(self, now_s: int) -> None:
        """Do what is due at a time of the chain's clock; raises ChainError."""
        rows = sorted(await load_waiting(self._database), key=lambda row: -row.step)[:MOST_AT_ONCE]
        places = MOST_OPEN - sum(row.step == Step.OPEN for row in rows)
        for row in rows:
            waiting = msgspec.msgpack.decode(row.content, type=Waiting)
            try:
                if row.step == Step.ASKED:
                    await self._ask_again(row, waiting, now_s)
                elif row.step == Step.WANTED:
                    places -= await self._demand(row, waiting, now_s, has_place=places > 0)
                else:
                    await self._follow(row, waiting, now_s)
            except Unavailable as error:  # the gateway is silent, or has not asked often enough itself
                _log.info("demand_waits", receipt=row.receipt_hash.hex(), reason=error.message)
                if self._is_too_late(waiting, now_s):
                    await self._give_up(waiting)

    async def _ask_again(self, row: WaitingRow, waiting: Waiting, now_s: int) -> None:
        if not row.due_s:
            block = await self._rpc.block_number()
            row = msgspec.structs.replace(row, due_s=now_s + self._patience_s, block=block)
            await move_waiting(self._database, row)
        if now_s < row.due_s:
            return
        client = self._clients.get(waiting.call.gateway)
        served = None if client is None else await relay_evidence(client, row.receipt_hash)
        if served is not None and evidence_root(served) == waiting.call.receipt.evidence_hash:
            await self._judge(waiting, served)
        else:
            await move_waiting(self._database, msgspec.structs.replace(row, step=int(Step.WANTED)))

    async def _demand(self, row: WaitingRow, waiting: Waiting, now_s: int, *, has_place: bool) -> bool:
        """Demand what is wanted; say whether it took a place."""
        call = waiting.call
        known = await self._proofs.fetch_demand(demand_id(call.order.provider, row.receipt_hash))
        if known.state is DemandState.NONE:
            if self._is_too_late(waiting, now_s):
                await self._give_up(waiting)
                return False
            epoch = now_s // self._epoch_s
            if not has_place or self._sent[epoch] >= MOST_PER_EPOCH:
                return False
            client = self._clients.get(call.gateway)
            consent = None if client is None else await client.fetch_consent(row.receipt_hash)
            if consent is None:
                await self._give_up(waiting)
                return False
            given = BatchedReceipt.build(call.signed, call.receipts, call.receipt)
            try:
                await self._proofs.demand_evidence(self._sender, given, consent)
            except Reverted as error:
                _log.warning("demand_refused", receipt=row.receipt_hash.hex(), reason=error.message)
                if error.reason != "AlreadyDemanded" and not error.reason.startswith("ERC20"):
                    await self._give_up(waiting)
                return False
            self._sent[epoch] += 1
            _log.info("evidence_demanded", receipt=row.receipt_hash.hex(), provider=call.order.provider.hex())
        await move_waiting(self._database, msgspec.structs.replace(row, step=int(Step.OPEN)))
        return True

    async def _follow(self, row: WaitingRow, waiting: Waiting, now_s: int) -> None:
        id_ = demand_id(waiting.call.order.provider, row.receipt_hash)
        demand = await self._proofs.fetch_demand(id_)
        if demand.state is DemandState.NONE:  # a reorganisation took it back
            await move_waiting(self._database, msgspec.structs.replace(row, step=int(Step.WANTED)))
        elif demand.state is DemandState.SERVED:
            await self._judge(waiting, await self._read(row, id_, demand))
        elif demand.state is DemandState.SILENT:
            await self._keep(waiting, Checked(Judgement(Outcome.FAIL, SILENT)))
        elif now_s >= demand.until_s:
            try:
                await self._proofs.close_demand(self._sender, id_)
                _log.warning("silence_slashed", provider=demand.provider.hex(), receipt=row.receipt_hash.hex())
            except Reverted as error:  # somebody else closed it, or the last chunk came in time
                _log.info("demand_not_closed", receipt=row.receipt_hash.hex(), reason=error.message)

    async def _read(self, row: WaitingRow, id_: bytes, demand: Demand) -> bytes:
        """The chunks that were served, from the events; first since the check began to wait, else all there are."""
        head = await self._rpc.block_number()
        for start in (row.block or self._from_block, self._from_block):
            parts: dict[int, list[bytes]] = {}
            async for logs in fetch_events(self._rpc, [self._proofs.contract.address], start, head):
                for event in self._proofs.decode_events(logs):
                    if event.name == "EvidenceServed" and event.values["id"] == id_:
                        parts[event.values["first"]] = event.values["chunks"]
            blob = b"".join(chunk for first in sorted(parts) for chunk in parts[first])
            if evidence_root(blob) == demand.evidence_hash:
                return blob
        raise Unavailable("the chain's endpoint does not show all the chunks that were served yet")

    async def _judge(self, waiting: Waiting, evidence: bytes) -> None:
        call = waiting.call
        checkable = await self._checkables(call.order.service_id)
        checked = await check_call(
            call.order, call.receipt, checkable, partial(given, waiting.shown), partial(given, evidence)
        )
        await self._keep(waiting, checked)

    async def _give_up(self, waiting: Waiting) -> None:
        await self._keep(waiting, Checked(Judgement(Outcome.ABSTAIN, Lack.EVIDENCE.value)))

    async def _keep(self, waiting: Waiting, checked: Checked) -> None:
        call = waiting.call
        row = await self._book.settle(call, waiting.selected_by, checked, material_of(call, waiting.shown, checked))
        _log.info(
            "waited_call_checked",
            provider=row.provider.hex(),
            outcome=Outcome(row.outcome).name,
            reason=row.reason,
            receipt=row.receipt_hash.hex(),
        )

    def _is_too_late(self, waiting: Waiting, now_s: int) -> bool:
        return now_s >= waiting.call.receipt.finished_ms // 1000 + self._keep_s
