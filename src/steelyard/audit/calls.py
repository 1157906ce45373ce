"""The calls behind each redemption: walk a lane from its redeemed head back to its beginning, through the blobs.

1. A head is the digest of a batch, and the gateway signed it: its fields are the true ones, whoever published it.
2. Receipts are true when they give the batch's root, an order when its hash is in its receipt. What isn't true in this
   sense proves nothing; it is held against the lane only if the lane's own provider published it.
3. A batch that no blob holds is missing: the lane is then not provable, and the CIDs to look for are named.
4. Nothing here reads a clock, a socket or a file.

Law: docs/spec/audit.md, section 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from steelyard.audit.books import LaneBooks, PostedOffer, Publication, Redemption
from steelyard.audit.findings import Finding, show
from steelyard.errors import BadSignature
from steelyard.protocol.cid import Cid
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Lane, Order, Receipt
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, require_signer

Calls = Sequence[tuple[Order, Receipt]]
Unread = Mapping[bytes, Sequence[Publication]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch as one blob holds it; `publishers` are the accounts that named the blob on chain."""

    signed: SignedBatch
    calls: Calls
    blob: bytes
    publishers: frozenset[bytes]


@dataclass(slots=True)
class CallIndex:
    """Every published batch by its head, and which orders and calls were billed so far."""

    domain: Domain
    by_head: defaultdict[bytes, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    billed_orders: set[bytes] = field(default_factory=set)
    billed_calls: set[tuple[bytes, bytes, bytes]] = field(default_factory=set)

    def add_blob(self, blob: bytes, publishers: Iterable[bytes], batches: Iterable[tuple[SignedBatch, Calls]]) -> None:
        """Enter what a blob (sha256 digest) holds; its messages have been checked for form alone."""
        named_by = frozenset(publishers)
        for signed, calls in batches:
            head = self.domain.digest(signed.batch.struct_hash())
            self.by_head[head].append(Candidate(signed, calls, blob, named_by))


@dataclass(slots=True)
class LaneProof:
    """What could be shown of one lane: its calls, units and cost as proven, its receipts in order, what was found."""

    lane: LaneBooks
    calls: int = 0
    units_in: int = 0
    units_out: int = 0
    cost: int = 0
    receipts: list[Receipt] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_proven(self) -> bool:
        """Whether every nano redeemed on the lane stands on a receipt."""
        return all(finding.severity == "note" for finding in self.findings)


def prove_lane(lane: LaneBooks, index: CallIndex, offers: Sequence[PostedOffer], unread: Unread) -> LaneProof:
    """Walk a redeemed lane and return what its blobs prove.

    Args:
        lane: by the chain's events. index: all that was published; orders and calls it billed are entered in it.
        offers: what the lane's provider had posted for its service.
        unread: the blobs named on chain that could not be read, with who named them and where.
    """
    proof = LaneProof(lane)
    if not lane.redemptions:
        return proof
    top = max(lane.redemptions, key=lambda redemption: (redemption.cumulative, redemption.count))
    path = list(_walk_back(proof, index, top.head, unread))
    path.reverse()
    if proof.is_proven:
        proof.findings += _check_chain(lane, path)
        proof.findings += _check_redemptions(lane, path, index.domain)
        blocks = _redeemed_at(lane, path, index.domain)
        for candidate, block in zip(path, blocks, strict=True):
            _count_calls(proof, candidate)
            proof.findings += _check_calls(lane, candidate, index, [o for o in offers if o.block <= block])
    return proof


def _walk_back(proof: LaneProof, index: CallIndex, head: bytes, unread: Unread) -> Iterator[Candidate]:
    lane = proof.lane
    while head != ZERO32:
        chosen: Candidate | None = None
        for candidate in index.by_head.get(head, ()):
            problem = _problem(candidate, head, index.domain)
            if problem is None:
                chosen = candidate
                break
            is_own = lane.provider in candidate.publishers
            proof.findings.append(
                Finding(
                    code=problem[0],
                    message=f"lane {show(lane.key)}: {problem[1]}",
                    severity="contradiction" if is_own else "note",
                    lane=lane.key,
                    head=head,
                    cids=(candidate.blob,),
                )
            )
        if chosen is None:
            proof.findings.append(_missing(lane, head, unread))
            return
        proof.findings = [f for f in proof.findings if f.head != head]  # a good copy outweighs bad ones
        yield chosen
        head = chosen.signed.batch.prev_head


def _problem(candidate: Candidate, head: bytes, domain: Domain) -> tuple[str, str] | None:
    batch = candidate.signed.batch
    try:
        require_signer(head, candidate.signed.signature, batch.provider, f"batch {batch.seq}")
    except BadSignature as error:
        return "forged_signature", error.message
    if merkle_root([receipt.struct_hash() for _, receipt in candidate.calls]) != batch.receipts_root:
        return "altered_leaf", f"the receipts published for batch {batch.seq} don't give its root"
    for order, receipt in candidate.calls:
        if order.struct_hash() != receipt.order_hash:
            return "swapped_order", f"a receipt of batch {batch.seq} is for another order than the one beside it"
    return None


def _missing(lane: LaneBooks, head: bytes, unread: Unread) -> Finding:
    redeemed_in = {redemption.tx for redemption in lane.redemptions}
    beside = [blob for blob, named in unread.items() if any(publication.tx in redeemed_in for publication in named)]
    own = [blob for blob, named in unread.items() if any(p.publisher == lane.provider for p in named)]
    cids = tuple(sorted(beside or own))
    words = "published for it and not found:" if cids else "every blob published for it was read, and none holds it"
    message = f"lane {show(lane.key)}: no readable blob holds the batch under head {show(head)}; {words}"
    message = " ".join((message, *(str(Cid(blob)) for blob in cids)))
    return Finding(code="missing_blob", message=message, severity="missing", lane=lane.key, head=head, cids=cids)


def _check_chain(lane: LaneBooks, path: Sequence[Candidate]) -> Iterator[Finding]:
    cumulative = 0
    for seq, candidate in enumerate(path, start=1):
        batch = candidate.signed.batch
        cumulative += sum(receipt.cost for _, receipt in candidate.calls)
        if batch.lane != Lane(lane.gateway, lane.provider, lane.service_id, lane.lane_id):
            yield _found(lane, candidate, "wrong_lane", f"batch {batch.seq} under its head is for another lane")
        if batch.seq != seq:
            yield _found(lane, candidate, "broken_chain", f"batch {batch.seq} stands at place {seq}")
        if batch.count != len(candidate.calls):
            message = f"batch {batch.seq} counts {batch.count} receipts and has {len(candidate.calls)}"
            yield _found(lane, candidate, "wrong_total", message)
        if batch.cumulative != cumulative:
            message = f"batch {batch.seq} says {batch.cumulative} nano, the receipts up to it add up to {cumulative}"
            yield _found(lane, candidate, "wrong_total", message)


def _check_redemptions(lane: LaneBooks, path: Sequence[Candidate], domain: Domain) -> Iterator[Finding]:
    known, count = {}, 0
    for candidate in path:
        batch = candidate.signed.batch
        count += batch.count
        known[domain.digest(batch.struct_hash())] = (batch.cumulative, count)
    for redemption in lane.redemptions:
        expected = known.get(redemption.head)
        if expected is None:
            message = (
                f"the head {show(redemption.head)} redeemed in block {redemption.block} is not on the lane's chain"
            )
            yield _misredeemed(lane, redemption, "broken_chain", message)
        elif expected != (redemption.cumulative, redemption.count):
            message = (
                f"redeemed were {redemption.cumulative} nano for {redemption.count} calls, under that head stand "
                f"{expected[0]} nano for {expected[1]}"
            )
            yield _misredeemed(lane, redemption, "wrong_voucher", message)


def _misredeemed(lane: LaneBooks, redemption: Redemption, code: str, message: str) -> Finding:
    message = f"lane {show(lane.key)}: {message}"
    block, tx = redemption.block, redemption.tx
    return Finding(code=code, message=message, lane=lane.key, head=redemption.head, block=block, tx=tx)


def _redeemed_at(lane: LaneBooks, path: Sequence[Candidate], domain: Domain) -> list[int]:
    block_of = {redemption.head: redemption.block for redemption in reversed(lane.redemptions)}
    blocks, block = [], max(redemption.block for redemption in lane.redemptions)
    for candidate in reversed(path):
        block = min(block, block_of.get(domain.digest(candidate.signed.batch.struct_hash()), block))
        blocks.append(block)
    return blocks[::-1]


def _count_calls(proof: LaneProof, candidate: Candidate) -> None:
    proof.calls += len(candidate.calls)
    for _, receipt in candidate.calls:
        proof.units_in += receipt.units_in
        proof.units_out += receipt.units_out
        proof.cost += receipt.cost
        proof.receipts.append(receipt)


def _check_calls(
    lane: LaneBooks, candidate: Candidate, index: CallIndex, offers: Sequence[PostedOffer]
) -> Iterator[Finding]:
    terms = {(offer.price_in, offer.price_out, offer.grade) for offer in offers}
    batch = candidate.signed.batch
    for order, receipt in candidate.calls:
        call = f"call_{order.call_id.hex()}"
        if order.lane != batch.lane:
            yield _found(lane, candidate, "wrong_lane", f"the order of {call} is for another lane than its batch")
        if (order.price_in, order.price_out, order.grade) not in terms:
            message = (
                f"{call} was ordered at {order.price_in}/{order.price_out} nano, grade {order.grade}: never offered"
            )
            yield _found(lane, candidate, "wrong_price", message)
        cost = call_cost(receipt.units_in, receipt.units_out, order.price_in, order.price_out)
        if receipt.cost != cost or receipt.cost > order.max_cost:
            message = f"{call} cost {receipt.cost} nano; its units make {cost}, its limit is {order.max_cost}"
            yield _found(lane, candidate, "wrong_cost", message)
        if receipt.order_hash in index.billed_orders:
            yield _found(lane, candidate, "repeated_order", f"the order of {call} was billed twice")
        elif (order.gateway, order.provider, order.call_id) in index.billed_calls:
            message = f"{call} was ordered twice by its gateway, from one provider, under two orders"
            finding = _found(lane, candidate, "repeated_call", message)
            yield replace(finding, account=lane.gateway, severity="note")
        index.billed_orders.add(receipt.order_hash)
        index.billed_calls.add((order.gateway, order.provider, order.call_id))


def _found(lane: LaneBooks, candidate: Candidate, code: str, message: str) -> Finding:
    message = f"lane {show(lane.key)}: {message}"
    return Finding(code=code, message=message, lane=lane.key, account=lane.provider, cids=(candidate.blob,))
