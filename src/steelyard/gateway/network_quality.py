"""What validators say of providers' quality: read from the ledger, and taken at its median.

1. Each active validator's newest post of the last `FRESH_EPOCHS` counts with its stake; per provider and service the
   weighted median is taken, so that it takes half of the stake to move it.
2. A post whose blob is missing or wrong is passed over; without any post the network has no opinion.
3. It steers this gateway's traffic beside its own observations, within bounds (routing.py). Nothing is paid by it.

Law: docs/spec/gateway.md, section 4; docs/spec/checking.md, section 8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from steelyard.chain.deployment import Deployment
from steelyard.chain.indexer import fetch_events
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import NotProvable, PeerError
from steelyard.protocol.cid import Cid
from steelyard.protocol.quality_blob import QUALITY_KIND, QualityBlob, decode_quality
from steelyard.storage.blobs import BlobStore
from steelyard.verification.standing import Pair

FRESH_EPOCHS = 4

_log = structlog.get_logger("steelyard.gateway")


@dataclass(frozen=True, slots=True)
class SeenQuality:
    """The network's opinion after an epoch, in millionths; `epoch` is None while it has none."""

    epoch: int | None = None
    ppm: Mapping[Pair, int] = field(default_factory=dict)


class QualityView(Protocol):
    """Where a gateway reads the network's quality."""

    async def fetch(self) -> SeenQuality:
        """Return what stands now; raises ChainError."""


def weighted_median(values: Iterable[tuple[int, int]]) -> int:
    """Return of (value, weight) the least value that half of the weight lies at or below; at least one is given."""
    ordered = sorted(values)
    half, below = sum(weight for _, weight in ordered), 0
    for value, weight in ordered:
        below += weight
        if 2 * below >= half:
            return value
    return ordered[-1][0]


class LedgerQuality:
    """`QualityView` over the ledger's posts of kind ``quality``.

    Args:
        rpc: its life is the caller's. blobs: where the posts' blobs are found.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment, blobs: BlobStore) -> None:
        self._rpc = rpc
        self._domain = deployment.domain
        self._ledger = LedgerClient(rpc, deployment)
        self._registry = RegistryClient(rpc, deployment)
        self._blobs = blobs
        self._next_block = deployment.block
        self._posts: dict[bytes, tuple[int, bytes, bytes]] = {}
        self._read: dict[tuple[int, bytes], QualityBlob] = {}
        self._seen: tuple[object, SeenQuality] = (None, SeenQuality())

    async def fetch(self) -> SeenQuality:
        """See `QualityView`."""
        await self._follow()
        newest = max((epoch for epoch, _, _ in self._posts.values()), default=0)
        fresh = {who: post for who, post in self._posts.items() if post[0] > newest - FRESH_EPOCHS}
        if self._seen[0] == fresh:
            return self._seen[1]
        by_pair: dict[Pair, list[tuple[int, int]]] = defaultdict(list)
        is_whole = True
        for publisher, (epoch, root, cid) in fresh.items():
            if not await self._registry.fetch_is_active(publisher, Role.VALIDATOR):
                continue
            blob = await self._load(epoch, root, cid)
            if blob is None:
                is_whole = False
                continue
            stake = await self._registry.fetch_stake(publisher, Role.VALIDATOR)
            for entry in blob.entries:
                by_pair[entry.pair].append((entry.quality_ppm, stake))
        ppm = {pair: weighted_median(values) for pair, values in by_pair.items()}
        seen = SeenQuality(newest if ppm else None, ppm)
        self._read = {key: blob for key, blob in self._read.items() if key[0] > newest - FRESH_EPOCHS}
        self._seen = (fresh if is_whole else None, seen)
        return seen

    async def _follow(self) -> None:
        head = await self._rpc.block_number()
        async for logs in fetch_events(self._rpc, [self._ledger.contract.address], self._next_block, head):
            for event in self._ledger.decode_events(logs):
                values = event.values
                if event.name == "Posted" and values["kind"] == QUALITY_KIND:
                    post = (values["epoch"], values["root"], values["cid"])
                    self._posts[values["publisher"]] = max(post, self._posts.get(values["publisher"], post))
        self._next_block = max(self._next_block, head + 1)

    async def _load(self, epoch: int, root: bytes, cid: bytes) -> QualityBlob | None:
        known = self._read.get((epoch, root))
        if known is not None:
            return known
        try:
            blob = decode_quality(await self._blobs.get(Cid(cid)), self._domain, root=root, epoch=epoch)
        except (NotProvable, PeerError) as error:
            _log.info("quality_unread", epoch=epoch, reason=error.message)
            return None
        self._read[(epoch, root)] = blob
        return blob
