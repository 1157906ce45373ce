"""What an audit reads of validators: their blobs of verdicts, and the stakes that their draws were made by.

1. Roots and secrets come from events; when a root was posted, and stakes of the past, from the contracts' own answers
   at the pinned block.
2. A blob that is missing is named; one that proves nothing (another root, a forged signature) counts as no verdicts.

Law: docs/spec/audit.md, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steelyard.audit.books import Books, PostedRoot
from steelyard.audit.findings import Finding
from steelyard.audit.history import Progress
from steelyard.audit.selection import SelectionFacts
from steelyard.chain.cases import CaseKind, Ruling
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Block
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import BadTotal, ChainError, NotProvable, PeerError
from steelyard.protocol.cid import Cid
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, VerdictsBlob, decode_verdicts
from steelyard.storage.blobs import BlobStore
from steelyard.verification.published import CaseSpan
from steelyard.verification.standing import PostedVerdicts

_VALIDATOR = 3
Key = tuple[bytes, int]


async def read_verdicts(
    rpc: ChainRpc, deployment: Deployment, blobs: BlobStore, books: Books, block: Block, progress: Progress
) -> tuple[SelectionFacts, list[Finding]]:
    """Return what selections are recomputed from, and a note for each blob that proves nothing; raises ChainError."""
    registry = Contract(rpc, "Registry", deployment.registry)
    roots = [root for root in books.posted if root.kind == VERDICTS_KIND]
    posted_at = await _posted_at(rpc, deployment, roots, block)
    active = await _fetch_stakes(registry, block, [(publisher, s - 1) for (publisher, _), s in posted_at.items()])
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
            if (root.publisher, posted_at[key] - 1) in active:
                posted.append(PostedVerdicts(blob, posted_at[key]))
    progress("verdicts", len(roots), len(roots))
    begins = {epoch: epoch * deployment.epoch_s - 1 for _, epoch in (*books.secrets, *verdicts)}
    validators = sorted({account for account, role in books.stakes if role == _VALIDATOR})
    stakes = await _fetch_stakes(registry, block, [(who, begin) for begin in begins.values() for who in validators])
    facts = SelectionFacts(
        secrets=books.secrets,
        stakes={
            epoch: {who: stakes[who, begin] for who in validators if (who, begin) in stakes}
            for epoch, begin in begins.items()
        },
        posted=posted,
        verdicts=verdicts,
        unread=unread,
        epoch_s=deployment.epoch_s,
        now_s=block.timestamp_s,
    )
    return facts, notes


async def read_cases(rpc: ChainRpc, books: Books) -> list[CaseSpan]:
    """Return when cases of cheating were open, by the clock of the chain; raises ChainError."""
    cheats = [case for case in books.cases.values() if case.kind == CaseKind.CHEAT]
    times: dict[int, int] = {}
    for number in sorted({number for case in cheats for number in (case.opened, case.closed) if number}):
        block = await rpc.block(number)
        if block is None:
            raise ChainError(f"the endpoint lost block {number}", code="reorganised")
        times[number] = block.timestamp_s
    return [
        CaseSpan(
            (case.accused, case.topic), times[case.opened], times.get(case.closed), case.ruling == Ruling.CONVICTED
        )
        for case in cheats
    ]


async def _read(blobs: BlobStore, deployment: Deployment, root: PostedRoot) -> VerdictsBlob:
    blob = decode_verdicts(await blobs.get(Cid(root.cid)), deployment.domain, root=root.root)
    if (blob.validator, blob.epoch) != (root.publisher, root.epoch):
        raise BadTotal("it is another validator's, or of another epoch")
    return blob


async def _posted_at(
    rpc: ChainRpc, deployment: Deployment, roots: Sequence[PostedRoot], block: Block
) -> dict[Key, int]:
    ledger = Contract(rpc, "Ledger", deployment.ledger)
    reads = [("rootOf", (root.publisher, root.kind, root.epoch)) for root in roots]
    answers = await ledger.read_many(reads, block.number)
    return {(root.publisher, root.epoch): entry[3] for root, (entry,) in zip(roots, answers, strict=True)}


async def _fetch_stakes(
    registry: Contract, block: Block, wanted: Sequence[tuple[bytes, int]]
) -> dict[tuple[bytes, int], int]:
    """Return validators' stakes at the end of Unix seconds, by (account, second), of all that were enough."""
    if not wanted:
        return {}
    reads: list[tuple[str, Any]] = [("stakeAt", (account, _VALIDATOR, max(0, time_s))) for account, time_s in wanted]
    (least,), *answers = await registry.read_many([("minStakeOf", (_VALIDATOR,)), *reads], block.number)
    return {key: int(stake) for key, (stake,) in zip(wanted, answers, strict=True) if stake >= max(1, least)}
