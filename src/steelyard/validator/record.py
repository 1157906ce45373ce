"""What the ledger says of providers when an epoch begins: who is a newcomer, and who failed lately.

1. Verdicts count from the moment their root stands on chain: those posted before an epoch began are its standing, so
   everyone reckons with the same.
2. Only roots of accounts that were active validators count, and only blobs that give their root; each receipt once.
3. A blob that is missing is passed over and asked for again.

Law: docs/spec/validator.md, section 6; docs/spec/checking.md, section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from steelyard.chain.ledger import LedgerClient
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import NotProvable, PeerError
from steelyard.protocol.cid import Cid
from steelyard.protocol.signing import Domain
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, decode_verdicts
from steelyard.storage.blobs import BlobStore
from steelyard.validator.stakes import ValidatorStakes
from steelyard.verification.selection import Standing
from steelyard.verification.standing import Pair, PostedVerdicts, standings_at

_log = structlog.get_logger("steelyard.validator")


class LedgerRecord:
    """Follows the verdicts on the ledger; `missing` are those whose blob is not to be had yet.

    Args:
        stakes: say whose posts count. from_block: of the deployment.
    """

    def __init__(
        self,
        rpc: ChainRpc,
        ledger: LedgerClient,
        stakes: ValidatorStakes,
        blobs: BlobStore,
        domain: Domain,
        from_block: int,
    ) -> None:
        self._rpc = rpc
        self._ledger = ledger
        self._stakes = stakes
        self._blobs = blobs
        self._domain = domain
        self._next_block = from_block
        self._turn = asyncio.Lock()
        self.missing: list[tuple[bytes, int, bytes, bytes]] = []
        self.posted: list[PostedVerdicts] = []

    async def refresh(self) -> None:
        """Read what was posted since the last time; raises ChainError."""
        async with self._turn:
            await self._refresh()

    async def _refresh(self) -> None:
        head = await self._rpc.block_number()
        if head >= self._next_block:
            logs = await self._rpc.get_logs([self._ledger.contract.address], self._next_block, head)
            for event in self._ledger.decode_events(logs):
                values = event.values
                if event.name == "Posted" and values["kind"] == VERDICTS_KIND:
                    self.missing.append((values["publisher"], values["epoch"], values["root"], values["cid"]))
            self._next_block = head + 1
        for waiting in list(self.missing):
            if await self._take(*waiting):
                self.missing.remove(waiting)

    async def _take(self, publisher: bytes, epoch: int, root: bytes, cid: bytes) -> bool:
        """Take in what was posted; say whether that is done with."""
        entry = await self._ledger.fetch_root(publisher, VERDICTS_KIND, epoch)
        if entry is None or not await self._stakes.fetch_weight(publisher, entry.posted_at_s - 1):
            return True
        try:
            blob = decode_verdicts(await self._blobs.get(Cid(cid)), self._domain, root=root)
        except NotProvable:
            return False
        except PeerError as error:
            _log.warning("verdicts_refused", publisher=publisher.hex(), epoch=epoch, reason=error.message)
            return True
        if (blob.validator, blob.epoch) == (publisher, epoch):
            self.posted.append(PostedVerdicts(blob, entry.posted_at_s))
        return True

    def standings(self, epoch: int) -> Mapping[Pair, Standing]:
        """Return the standing of each provider at each service when an epoch begins."""
        return standings_at(self.posted, epoch, self._ledger.epoch_s)
