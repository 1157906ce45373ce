"""One audit, from the first event to the verdict.

1. Pin a block, read all events up to it, rebuild the books, ask every contract, walk every lane through the blobs,
   and recompute what validators had to check.
2. A chain that was reorganised meanwhile is read again, three times at most.
3. Blobs come from any store by their digest; one that is missing, damaged or unreadable is named, never guessed.

Law: docs/spec/audit.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from steelyard.audit.books import Books, Contracts, Publication
from steelyard.audit.calls import CallIndex, LaneProof, prove_lane
from steelyard.audit.findings import Finding
from steelyard.audit.history import Progress, fetch_answers, fetch_history, is_still_chain, pin_block
from steelyard.audit.quality import check_quality, quality_findings
from steelyard.audit.rebuild import rebuild
from steelyard.audit.report import AuditReport
from steelyard.audit.selection import check_selections, selection_findings
from steelyard.audit.verdicts import read_cases, read_verdicts
from steelyard.audit.views import compare_views, list_expectations
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Block
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.errors import BadMessage, BadRequest, ChainError, ConfigError, NotProvable
from steelyard.protocol.calls_blob import decode_calls
from steelyard.protocol.cid import Cid
from steelyard.protocol.quality_blob import QUALITY_KIND
from steelyard.storage.blobs import BlobStore

ATTEMPTS = 3


def _ignore(what: str, done: int, total: int) -> None:
    pass


async def run_audit(
    rpc: ChainRpc,
    deployment: Deployment,
    blobs: BlobStore,
    *,
    from_block: int | None = None,
    tag: BlockTag = "latest",
    progress: Progress = _ignore,
) -> AuditReport:
    """Return what chain and blobs say of all money, as of one block.

    Args:
        rpc, blobs: any endpoint of the deployment's chain, any store; both untrusted for anything but being asked.
        from_block: where the events begin; at most the deployment's own block, which is the default.
        tag: the block to pin: a number, "latest", "safe" or "finalized".

    Raises:
        BadRequest: a first block after the deployment's. ConfigError: contracts of another deployment.
        ChainError: the chain is silent, or changed at each attempt.
    """
    start = deployment.block if from_block is None else from_block
    if start > deployment.block:
        message = f"from-block {start} is after the deployment's block {deployment.block}: earlier balances would lack"
        raise BadRequest(message, param="from_block")
    await _check_domain(rpc, deployment)
    for _ in range(ATTEMPTS):
        block = await pin_block(rpc, tag)
        try:
            report = await _audit_at(rpc, deployment, blobs, start, block, progress)
        except ChainError as error:
            if error.code == "reorganised":
                continue
            raise
        if await is_still_chain(rpc, block):
            return report
    message = f"the chain changed during each of {ATTEMPTS} attempts: audit an older block, with --block finalized"
    raise ChainError(message, code="reorganised")


async def _check_domain(rpc: ChainRpc, deployment: Deployment) -> None:
    for name, address in (("Escrow", deployment.escrow), ("Registry", deployment.registry)):
        contract = Contract(rpc, "Escrow" if name == "Escrow" else "Registry", address)
        if (await contract.read("domainSeparator"))[0] != deployment.domain.separator:
            raise ConfigError(f"the {name} at 0x{address.hex()} is of another deployment than the file says")


async def _audit_at(
    rpc: ChainRpc, deployment: Deployment, blobs: BlobStore, start: int, block: Block, progress: Progress
) -> AuditReport:
    entries = await fetch_history(rpc, deployment, start, block, progress)
    contracts = Contracts(
        yard=deployment.yard,
        registry=deployment.registry,
        escrow=deployment.escrow,
        court=deployment.court,
        rewards=deployment.rewards,
    )
    books, findings = rebuild(contracts, entries)
    expectations = list_expectations(books)
    findings += compare_views(expectations, await fetch_answers(rpc, deployment, expectations, block))
    shelf = await _read_blobs(books, blobs, deployment, progress)
    proofs = []
    for lane in books.lanes.values():
        offers = books.offers.get((lane.provider, lane.service_id), [])
        proofs.append(prove_lane(lane, shelf.index, offers, shelf.unread))
    facts, notes = await read_verdicts(rpc, deployment, blobs, books, block, progress)
    selections = check_selections(proofs, facts)
    roots = [root for root in books.posted if root.kind == QUALITY_KIND]
    quality = check_quality(roots, facts, await read_cases(rpc, books))
    return AuditReport(
        chain_id=deployment.chain_id,
        deployment=deployment.salt,
        block=block.number,
        block_hash=block.hash,
        from_block=start,
        events=len(entries),
        blobs_named=shelf.named,
        blobs_read=shelf.named - len(shelf.unread),
        books=books,
        lanes=tuple(proofs),
        selections=tuple(selections),
        quality=tuple(quality),
        findings=(
            *findings,
            *_lane_findings(proofs),
            *shelf.notes,
            *notes,
            *selection_findings(selections),
            *quality_findings(quality),
        ),
    )


@dataclass(slots=True)
class _Shelf:
    index: CallIndex
    unread: dict[bytes, list[Publication]]
    notes: list[Finding]
    named: int


async def _read_blobs(books: Books, blobs: BlobStore, deployment: Deployment, progress: Progress) -> _Shelf:
    named: defaultdict[bytes, list[Publication]] = defaultdict(list)
    for publication in books.published:
        named[publication.blob].append(publication)
    shelf = _Shelf(CallIndex(deployment.domain), {}, [], len(named))
    for done, (digest, publications) in enumerate(named.items()):
        progress("blobs", done, len(named))
        try:
            content = decode_calls(await blobs.get(Cid(digest)))
            if (content.chain_id, content.salt) != (deployment.chain_id, deployment.salt):
                raise BadMessage("it is of another deployment")
        except NotProvable as error:
            shelf.unread[digest] = publications
            if error.code != "blob_missing":
                shelf.notes.append(Finding(code="bad_blob", message=error.message, severity="note", cids=(digest,)))
        except BadMessage as error:
            message = f"blob {Cid(digest)} holds no calls of this deployment: {error.message}"
            shelf.notes.append(Finding(code="bad_blob", message=message, severity="note", cids=(digest,)))
        else:
            shelf.index.add_blob(digest, {p.publisher for p in publications}, content.batches)
    progress("blobs", len(named), len(named))
    return shelf


def _lane_findings(proofs: list[LaneProof]) -> list[Finding]:
    return [finding for proof in proofs for finding in proof.findings]
