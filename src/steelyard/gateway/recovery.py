"""After a crash: whose calls were they that come back, and what did the last run really spend?

1. A call that comes back by its order's tag is charged to the key that made it: its id hides the key (call_marks.py).
2. A crashed run's slices count as spent until every order of that run is past its deadline; calls that came back
   meanwhile are counted in. What comes back later is charged to the escrow whatever it holds, and to a key as far as
   its budget goes: no key is ever lifted above its limit, the gateway bears the rest.

Law: docs/spec/money.md, sections 2 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from steelyard.errors import NotFound, SteelyardError
from steelyard.gateway.call_marks import key_mark, read_mark
from steelyard.gateway.settlement import PRIVATE_SUFFIX, REPLACED, Settlement
from steelyard.link.port import LeafEntry
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Order
from steelyard.protocol.pricing import call_cost
from steelyard.storage.budgets import Slice, charge, reconcile
from steelyard.storage.calls import CallRow, spent_in_run
from steelyard.storage.database import Database
from steelyard.storage.keys import list_keys
from steelyard.storage.writer import GroupWriter

_log = structlog.get_logger("steelyard.gateway")


class Recovery:
    """What this run inherited from those that crashed.

    Args:
        crashed: their slices, from `budgets.recover`. escrow_id: the escrow's budget. secret: 32 bytes, for call marks.
        wait_ms: how long after the start an order of theirs may still end.
    """

    def __init__(
        self,
        database: Database,
        writer: GroupWriter,
        settlement: Settlement,
        crashed: Iterable[Slice],
        *,
        escrow_id: str,
        secret: bytes,
        wait_ms: int,
    ) -> None:
        self.secret = secret
        self._database = database
        self._writer = writer
        self._settlement = settlement
        self._escrow_id = escrow_id
        self._crashed = sorted(crashed, key=lambda slice_: slice_.opened_ms)
        self._due_ms = settlement.clock_ms() + wait_ms
        self._keys: dict[int, str] = {}
        self._charges: list[tuple[str, int]] = []

    @property
    def is_waiting(self) -> bool:
        """Whether a crashed run's slices are still held back."""
        return bool(self._crashed)

    async def load_keys(self) -> None:
        """Learn the marks of all keys; called at the start."""
        self._keys = {key_mark(key.key_id): key.key_id for key in await list_keys(self._database)}

    async def prepare(self, entries: Iterable[LeafEntry]) -> None:
        """Learn the marks of keys that were made after the start, if one of the calls is none we know."""
        if any(read_mark(self.secret, entry.order.call_id) not in self._keys for entry in entries):
            await self.load_keys()

    def take(self, entry: LeafEntry, order_hash: bytes, receipt_hash: bytes, known: CallRow | None) -> None:
        """Account for a call that came back by its tag: a row, and the charge to its key and the escrow.

        Args:
            known: its row, if it was given up as lost; it says who pays: nobody's key, if nothing was shown of it, and
                nobody's any more, if another order of the call made the key pay for what was shown.
        """
        if known is None:
            key_id, run_id = self._keys.get(read_mark(self.secret, entry.order.call_id)), self._run_of(entry.order)
        else:
            key_id, run_id = known.key_id, known.run_id
        receipt = entry.receipt
        charged = 0 if key_id is None or _is_replaced(known) else _key_share(entry)
        self._settlement.add_recovered(
            entry.order, order_hash, receipt, receipt_hash, key_id, run_id, known, charged_nano=charged
        )
        held = {slice_.budget_id for slice_ in self._crashed if slice_.run_id == run_id}
        for budget_id, nano in ((self._escrow_id, receipt.cost), (key_id, charged)):
            if budget_id is not None and budget_id not in held and nano:
                self._charges.append((budget_id, nano))
        _log.info("call_recovered", call=entry.order.call_id.hex(), cost_nano=receipt.cost, key=key_id)

    async def run_due(self) -> None:
        """Write the charges that gathered; reconcile the crashed slices once their orders are past their deadline."""
        while self._charges:
            budget_id, nano = self._charges[0]
            try:
                await self._charge(budget_id, nano)
            except NotFound:
                _log.error("charge_without_budget", budget=budget_id, nano=nano)
            self._charges.pop(0)
        if self._crashed and self._settlement.clock_ms() >= self._due_ms:
            await self._writer.flush()
            while self._crashed:
                await self._reconcile(self._crashed[0])
                self._crashed.pop(0)

    async def _reconcile(self, crashed: Slice) -> None:
        key_id = None if crashed.budget_id == self._escrow_id else crashed.budget_id
        spent = await spent_in_run(self._database, crashed.run_id, key_id=key_id)
        actual = min(max(spent, crashed.spent_nano), crashed.amount_nano)
        try:
            await reconcile(self._database, crashed, actual_nano=actual)
        except SteelyardError as error:
            _log.error("slice_not_reconciled", budget=crashed.budget_id, reason=error.message)
            return
        if spent > actual:
            await self._charge(crashed.budget_id, spent - actual)
        _log.info("slice_reconciled", budget=crashed.budget_id, held_nano=crashed.amount_nano, spent_nano=actual)

    async def _charge(self, budget_id: str, nano: int) -> None:
        counted = await charge(self._database, budget_id, spent_nano=nano, is_capped=budget_id != self._escrow_id)
        if counted < nano:
            _log.warning("charge_capped", budget=budget_id, nano=nano, charged_nano=counted)

    def _run_of(self, order: Order) -> bytes | None:
        runs = [slice_ for slice_ in self._crashed if slice_.opened_ms <= order.deadline_ms]
        return runs[-1].run_id if runs else None


def _is_replaced(known: CallRow | None) -> bool:
    return known is not None and known.status.removesuffix(PRIVATE_SUFFIX) == REPLACED


def _key_share(entry: LeafEntry) -> int:
    """What a key pays for a call that came back: of one that went on from another's prefix, its own output."""
    order, receipt = entry.order, entry.receipt
    if order.prefix_hash == ZERO32:
        return receipt.cost
    return call_cost(0, receipt.units_out, order.price_in, order.price_out)
