"""What an audit reads of validators: their blobs of verdicts, and the stakes that their draws were made by.

1. Roots and secrets come from events; when a root was posted, and stakes of the past, from the contracts' own answers
   at the pinned block.
2. A blob that is missing is named; one that proves nothing (another root, a forged signature) counts as no verdicts.

Law: docs/spec/audit.md, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from steelyard.audit.books import Books, PostedRoot
from steelyard.audit.findings import Finding
from steelyard.audit.history import Progress
from steelyard.audit.selection import SelectionFacts
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Block
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import BadTotal, NotProvable, PeerError
from steelyard.protocol.cid import Cid
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, VerdictsBlob, decode_verdicts
from steelyard.storage.blobs import BlobStore
from steelyard.verification.standing import PostedVerdicts

_VALIDATOR = 3
Key = tuple[bytes, int]


async def read_verdicts(
    rpc: ChainRpc, deployment: Deployment, blobs: BlobStore, books: Books, block: Block, progress: Progress
) -> tuple[SelectionFacts, list[Finding]]:
    """Return what selections are recomputed from, and a note for each blob that proves nothing; raises ChainError."""
    stakes = _Stakes(rpc, deployment, books, block)
    roots = [root for root in books.posted if root.kind == VERDICTS_KIND]
    posted_at = await _posted_at(rpc, deployment, roots, block)
    verdicts: dict[Key, tuple[PublishedVerdict, ...]] = {}
    unread: dict[Key, bytes] = {}
    posted: list[PostedVerdicts] = []
    notes: list[Finding] = []
    for done, root in enumerate(roots):
        progress("verdicts", done, len(roots))
        key = (root.publisher, root.epoch)
        try:
            blob = await _read(blobs, deployment, root)
        except NotProvable:
            unread[key] = root.cid
        except PeerError as error:
            message = f"blob {Cid(root.cid)} holds no verdicts of 0x{root.publisher.hex()}: {error.message}"
            notes.append(Finding(code="bad_blob", message=message, severity="note", cids=(root.cid,)))
        else:
            verdicts[key] = blob.verdicts
            if await stakes.was_active(root.publisher, posted_at[key] - 1):
                posted.append(PostedVerdicts(blob, posted_at[key]))
    progress("verdicts", len(roots), len(roots))
    epochs = sorted({epoch for _, epoch in (*books.secrets, *verdicts)})
    facts = SelectionFacts(
        secrets=books.secrets,
        stakes={epoch: await stakes.at(max(0, epoch * deployment.epoch_s - 1)) for epoch in epochs},
        posted=posted,
        verdicts=verdicts,
        unread=unread,
        epoch_s=deployment.epoch_s,
        now_s=block.timestamp_s,
    )
    return facts, notes


async def _read(blobs: BlobStore, deployment: Deployment, root: PostedRoot) -> VerdictsBlob:
    blob = decode_verdicts(await blobs.get(Cid(root.cid)), deployment.domain, root=root.root)
    if (blob.validator, blob.epoch) != (root.publisher, root.epoch):
        raise BadTotal("it is another validator's, or of another epoch")
    return blob


async def _posted_at(
    rpc: ChainRpc, deployment: Deployment, roots: Iterable[PostedRoot], block: Block
) -> dict[Key, int]:
    ledger, wanted = Contract(rpc, "Ledger", deployment.ledger), list(roots)
    reads = [("rootOf", (root.publisher, root.kind, root.epoch)) for root in wanted]
    answers = await ledger.read_many(reads, block.number) if reads else []
    return {(root.publisher, root.epoch): entry[3] for root, (entry,) in zip(wanted, answers, strict=True)}


class _Stakes:
    """Validators' stakes of the past, as the registry remembers them."""

    def __init__(self, rpc: ChainRpc, deployment: Deployment, books: Books, block: Block) -> None:
        self._registry = Contract(rpc, "Registry", deployment.registry)
        self._accounts = sorted({account for account, role in books.stakes if role == _VALIDATOR})
        self._block = block.number
        self._least: int | None = None

    async def at(self, time_s: int, accounts: Iterable[bytes] | None = None) -> dict[bytes, int]:
        """Return the stakes at the end of a Unix second, of all that were enough."""
        if self._least is None:
            self._least = max(1, int((await self._registry.read("minStakeOf", _VALIDATOR, block=self._block))[0]))
        wanted = self._accounts if accounts is None else list(accounts)
        reads: list[tuple[str, Any]] = [("stakeAt", (account, _VALIDATOR, time_s)) for account in wanted]
        answers = await self._registry.read_many(reads, self._block) if reads else []
        found = {account: int(stake) for account, (stake,) in zip(wanted, answers, strict=True)}
        return {account: stake for account, stake in found.items() if stake >= self._least}

    async def was_active(self, account: bytes, time_s: int) -> bool:
        """Whether an account's stake was a validator's at the end of a Unix second."""
        return account in await self.at(time_s, [account])
