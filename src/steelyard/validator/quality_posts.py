"""Publishing what quality came to: after each epoch a blob, and its root on the ledger.

1. The blob is there before the root that names it; a root is posted once an epoch, so a restart posts none twice.
2. An epoch that can't be computed (a blob is missing) is not posted; the next one has it, too.

Law: docs/spec/checking.md, section 8.
"""

from __future__ import annotations

import structlog

from steelyard.chain.ledger import LedgerClient
from steelyard.chain.sender import Sender
from steelyard.errors import NotProvable, Reverted
from steelyard.protocol.quality_blob import QUALITY_KIND, encode_quality, quality_root
from steelyard.protocol.signing import Domain
from steelyard.storage.blobs import BlobStore
from steelyard.validator.quality import NetworkQuality
from steelyard.verification.published import quality_entries

_log = structlog.get_logger("steelyard.validator")


class QualityPosts:
    """Posts under one validator's name."""

    def __init__(
        self, quality: NetworkQuality, ledger: LedgerClient, blobs: BlobStore, sender: Sender, domain: Domain
    ) -> None:
        self._quality = quality
        self._ledger = ledger
        self._blobs = blobs
        self._sender = sender
        self._domain = domain
        self._done = -1

    async def beat(self, now_s: int) -> None:
        """Publish the last epoch's quality once it is over; raises ChainError."""
        epoch = self._ledger.epoch_at(now_s) - 1
        if epoch <= self._done:
            return
        if await self._ledger.fetch_root(self._sender.account, QUALITY_KIND, epoch) is None:
            try:
                entries = quality_entries(await self._quality.compute(epoch))
            except NotProvable as error:
                _log.warning("quality_not_provable", epoch=epoch, reason=error.message)
                return
            if entries:
                cid = await self._blobs.put(encode_quality(self._domain, epoch, entries))
                root = quality_root(entries)
                try:
                    await self._ledger.post(self._sender, QUALITY_KIND, epoch, root, cid.digest, len(entries))
                    _log.info("quality_published", epoch=epoch, providers=len(entries), cid=str(cid))
                except Reverted as error:
                    _log.warning("quality_not_posted", epoch=epoch, reason=error.message)
        self._done = epoch
