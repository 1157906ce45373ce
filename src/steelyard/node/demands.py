"""Evidence that is demanded on chain: answered from what is kept, in as many transactions as it takes.

1. Whoever demands put a bond on it: it is ours once the last chunk is served. Silence until the deadline is slashed, so
   no demand is ever passed over: what fails is tried again, as long as there is time.
2. A node that was restarted goes on after the last chunk that it served.

Law: docs/spec/node.md, section 8.
"""

from __future__ import annotations

import asyncio

import structlog

from steelyard.errors import Reverted, SteelyardError
from steelyard.node.chain_view import NodeChain
from steelyard.node.demand_watch import OpenDemand
from steelyard.storage.database import Database
from steelyard.storage.node_evidence import find_evidence

LOOK_S = 2.0

_log = structlog.get_logger("steelyard.node")


class DemandDesk:
    """Answers demands; `run` for as long as the node runs.

    Args:
        provider: our account.
    """

    def __init__(self, chain: NodeChain, database: Database, provider: bytes) -> None:
        self._chain = chain
        self._database = database
        self._provider = provider
        self._hopeless: set[bytes] = set()

    async def run(self) -> None:
        """Look and answer, until cancelled."""
        while True:
            try:
                await self.look()
            except SteelyardError as error:
                _log.warning("demands_unread", code=error.code, reason=error.message)
            except Exception:  # a supervisor: stake depends on the next look
                _log.exception("demands_unread")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Serve all that is open; raises ChainError if it can't be read."""
        for item in await self._chain.fetch_demands(self._provider):
            if item.id not in self._hopeless:
                await self._answer(item)

    async def _answer(self, item: OpenDemand) -> None:
        told = {"receipt": item.receipt_hash.hex(), "until_s": item.demand.until_s}
        evidence = await find_evidence(self._database, item.receipt_hash)
        if evidence is None:
            self._hopeless.add(item.id)
            _log.error("demanded_evidence_lost", **told)
            return
        try:
            await self._chain.serve_evidence(item.id, evidence)
            _log.info("demand_answered", size_bytes=len(evidence), **told)
        except Reverted as error:
            if error.reason == "TooLate":
                self._hopeless.add(item.id)
            _log.error("demand_refused", reason=error.message, **told)
        except SteelyardError as error:
            _log.error("demand_unanswered", reason=error.message, **told)
