"""What is fuzzed: everything that reads a stranger's bytes on the way from an answer to a verdict.

A target has valid seeds and a check. A check returns whether the bytes could be read; it raises `Accepted` when bytes
that aren't the honest ones are taken for them, i.e. pass all that binds them to what was signed; and it lets through
anything else that is raised, which is a crash. Bytes of one value written otherwise (msgpack and JSON allow it) are
told apart by what they say, not by how.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from steelyard.engines.port import Candidates
from steelyard.errors import BadMessage, PeerError, SteelyardError
from steelyard.gateway.receipt_check import check_receipt, check_terms
from steelyard.link import checks
from steelyard.link.frames import (
    Ask,
    Chain,
    Done,
    Fail,
    FrameDecoder,
    Grant,
    Hello,
    Open,
    Part,
    Proof,
    Show,
    Terms,
    ToGateway,
    ToGatewayFirst,
    ToNode,
    encode_frame,
    join_frames,
)
from steelyard.link.port import CallRequest, Failure, LeafEntry, Piece, SignedOffer
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, extend_lane
from steelyard.protocol.messages import Lane, Offer, Order, Receipt, Verdict, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.protocol.verdicts_blob import PublishedVerdict, decode_verdicts, encode_verdicts, verdicts_root
from steelyard.services.chat.evidence import (
    MALFORMED,
    REPLAY_TAG,
    Finding,
    compare_rows,
    decode_claim,
    encode_breach,
    encode_claim,
    encode_replay,
    encode_row,
)
from steelyard.services.chat.replays import SECOND_TAG, compare_replays
from steelyard.services.port import Comparison, FinishReason, Result
from steelyard.validator.case_file import Material, decode_case, encode_case, encode_material
from steelyard.validator.gateway_client import ShownBatch, ShownCall
from steelyard.validator.opened import check_batch, open_texts, opens
from steelyard.verification.betting import BETS
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Pair, Sample, calibrate
from steelyard.verification.eprocess import Suspicion, add_answer, decode_suspicion, encode_suspicion
from steelyard.verification.null import decode_null, encode_null, null_digest
from steelyard.verification.scores import Regime

DOMAIN = Domain(31415, b"\x05" * 32)
GATEWAY, PROVIDER, VALIDATOR = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))
SERVICE, SALT = b"\x33" * 32, b"\x44" * 32
LANE = Lane(GATEWAY.account, PROVIDER.account, SERVICE, 7)
BODY, CONTENT = b'{"model":"m","messages":[]}', b"an answer of some words"
ROWS = 12
QUOTE = (100, 100)
EPOCH = 9


class Accepted(Exception):
    """Bytes that aren't the honest ones were taken for them."""


@dataclass(frozen=True)
class Target:
    """Seeds are valid; `check` says whether bytes could be read at all."""

    name: str
    seeds: tuple[bytes, ...]
    check: Callable[[bytes], bool]


def _rows() -> tuple[bytes, list[Finding]]:
    source, rows, findings = random.Random(1), b"", []
    for place in range(ROWS):
        logprobs = sorted((-source.expovariate(0.3) for _ in range(64)), reverse=True)
        rows += encode_row(Candidates(tuple(range(place, place + 64)), tuple(logprobs)), place + source.randrange(6))
        findings.append(Finding(0.0, source.random(), 1.0 + source.random()))
    return rows, findings


HONEST_ROWS, FINDINGS = _rows()
CLAIM = encode_claim(10, HONEST_ROWS)
REPLAY = encode_replay(10, HONEST_ROWS, FINDINGS)
ORDER = Order(
    b"\x01" * 16, GATEWAY.account, PROVIDER.account, SERVICE, 7, content_hash(SALT, BODY), ZERO32, 5, 3, 10**6,
    2 * 10**6, 10**6, 2**40,
)  # fmt: skip
RECEIPT = Receipt(
    ORDER.struct_hash(), 0, content_hash(SALT, CONTENT), evidence_root(CLAIM), 10, ROWS,
    call_cost(10, ROWS, ORDER.price_in, ORDER.price_out), 2**39, 2**39 + 5, int(FinishReason.LENGTH),
)  # fmt: skip


def _claims(data: bytes) -> bool:
    """Alone, beside an honest replay, and under the receipt's root."""
    compared = compare_rows(data, REPLAY)
    if data != CLAIM and evidence_root(data) == RECEIPT.evidence_hash:
        raise Accepted("evidence that opens another's receipt")
    try:
        claim = decode_claim(data)
    except BadMessage as error:
        is_named = error.code == MALFORMED and not compared.is_wellformed
        if not is_named:
            raise
        return False
    if encode_claim(claim.prompt_tokens, data[12:]) != data:
        raise Accepted("a claim that is read as another")
    honest = decode_claim(CLAIM)
    says_same = [(row.token_id, row.steps) for row in claim.rows] == [(row.token_id, row.steps) for row in honest.rows]
    if compared.is_wellformed and compared.distance == 0 and not says_same:
        raise Accepted("other tokens or log-probabilities at no distance")
    _is_sane(compared)
    return True


def _replays(data: bytes) -> bool:
    """As an own or bought replay of an honest claim, and as a bought one beside a second."""
    bought = Result(content=data, units_in=10, units_out=ROWS, finish=FinishReason.STOP)
    second = compare_replays(bought, b"", SECOND_TAG + REPLAY)
    try:
        compared = compare_rows(CLAIM, data)
    except BadMessage:
        compared = None
    own = decode_claim(REPLAY, REPLAY_TAG)
    try:
        read = decode_claim(data, REPLAY_TAG)
    except BadMessage:
        read = None
    for found in (second, compared):
        if found is not None:
            _is_sane(found)
    if read is None:
        if second.is_wellformed and second.distance == 0:
            raise Accepted("a replay that can't be read agrees with a second one")
        return compared is not None
    says_same = [(row.token_id, row.steps) for row in read.rows] == [(row.token_id, row.steps) for row in own.rows]
    margins = [finding.margin for finding in read.findings] == [finding.margin for finding in own.findings]
    if second.is_wellformed and second.distance == 0 and not (says_same and margins):
        raise Accepted("another replay agrees with a second one")
    return True


def _is_sane(found: Comparison) -> None:
    numbers = [number for score in found.scores for number in (score.margin, score.gap, score.entropy, score.lead)]
    assert all(0 <= number <= 16 for number in (found.distance / 2, *numbers)), "a score out of its range"


def _receipts(data: bytes) -> bool:
    """As a gateway takes it: types, ranges, then the order, the content and the price."""
    try:
        receipt = msgspec.msgpack.decode(data, type=Receipt)
        checks.check_receipt(receipt)
        receipt.check_fields()
    except (msgspec.MsgspecError, UnicodeDecodeError, BadMessage):
        return False
    try:
        check_receipt(ORDER, ORDER.struct_hash(), QUOTE, receipt, SALT, CONTENT)
    except PeerError:
        return True
    says_same = (receipt.order_hash, receipt.part, receipt.response_hash) == (
        RECEIPT.order_hash,
        0,
        RECEIPT.response_hash,
    )
    cost = call_cost(receipt.units_in, receipt.units_out, ORDER.price_in, ORDER.price_out)
    if not says_same or receipt.cost != cost or receipt.cost > ORDER.max_cost:
        raise Accepted("a receipt of another order, content or price")
    return True


def _material(index: int) -> tuple[bytes, bytes]:
    order = msgspec.structs.replace(ORDER, call_id=bytes([index]) * 16)
    receipt = msgspec.structs.replace(RECEIPT, order_hash=order.struct_hash())
    _, signed = extend_lane(LaneState(lane=LANE), [receipt.struct_hash()], [receipt.cost], PROVIDER, DOMAIN)
    call = ShownCall("chat.completions", BODY, CONTENT, SALT)
    leaves = (receipt.struct_hash(),)
    return encode_material(Material(order, receipt, signed, leaves, call, CLAIM)), leaves[0]


MATERIALS = [_material(index) for index in range(3)]
CASE = encode_case(PROVIDER.account, SERVICE, 1, [material for material, _ in MATERIALS])
SIGNED = {receipt for _, receipt in MATERIALS}


def _cases(data: bytes) -> bool:
    """As a juror opens it: form, then batch, texts and evidence of each answer."""
    try:
        case = decode_case(data)
    except BadMessage:
        return False
    for answer in case.answers:
        try:
            alone = len(answer.receipts) == 1
            if alone:
                check_batch(ShownBatch(0, answer.signed, ((answer.order, answer.receipt),)), GATEWAY.account, DOMAIN)
            result = open_texts(answer.order, answer.receipt, answer.call)
        except SteelyardError:
            continue
        is_signed = answer.receipt.struct_hash() in SIGNED
        if alone and not is_signed:
            raise Accepted("a case with an answer that its provider didn't sign")
        if is_signed and (result.content != CONTENT or answer.call.body != BODY):
            raise Accepted("a case with other texts than the receipt's")
        if is_signed and answer.claimed != CLAIM and opens(answer.receipt, answer.claimed):
            raise Accepted("a case with other evidence than the receipt's")
    return True


def _verdict(index: int) -> PublishedVerdict:
    verdict = Verdict(VALIDATOR.account, bytes([index]) * 32, index % 3, ZERO32, EPOCH)
    signature = VALIDATOR.sign(DOMAIN.digest(verdict.struct_hash()))
    return PublishedVerdict(
        verdict,
        signature,
        PROVIDER.account,
        SERVICE,
        GATEWAY.account,
        "rate",
        "improbable" if index % 3 else "",
        -5,
        64,
    )


VERDICTS = [_verdict(index) for index in range(4)]
VERDICTS_BLOB = encode_verdicts(DOMAIN, VALIDATOR.account, EPOCH, VERDICTS)


def _verdicts(data: bytes) -> bool:
    """Under the root on the ledger: what was signed must be all that it was."""
    try:
        blob = decode_verdicts(data, DOMAIN, root=verdicts_root(VERDICTS))
    except PeerError:
        return False
    if [item.verdict for item in blob.verdicts] != [item.verdict for item in VERDICTS]:
        raise Accepted("verdicts that were not posted")
    return True


def _null() -> bytes:
    source, samples = random.Random(2), []
    for family in (ORDINARY, GIBBERISH):
        for regime in Regime:
            positions = tuple(_Position(True, 0.0, 0.0, source.random() * 3, source.random() * 4) for _ in range(400))
            samples.append(Sample(family=family, regime=regime, positions=positions))
    return encode_null(calibrate(samples, Pair(manifest="ab" * 32, provider_engine="e 1", validator_engine="e 1")))


@dataclass(frozen=True)
class _Position:
    is_match: bool
    margin: float
    gap: float
    entropy: float
    lead: float


NULL = _null()


def _nulls(data: bytes) -> bool:
    """A null is named by its bytes; whatever is read can be used for any position."""
    try:
        null = decode_null(data)
    except BadMessage:
        return False
    if data != NULL and null_digest(data) == null_digest(NULL):
        raise Accepted("a null under another's name")
    for regime in Regime:
        for index in range(3):
            bound = null.bound_ppb(index, regime, _Position(True, 0.0, 0.0, 1.0, 1.0))
            assert bound is None or 0 < bound <= 10**9
    return True


def _suspicion() -> bytes:
    state, source = Suspicion(), random.Random(3)
    for index in range(5):
        state = add_answer(state, bytes([index % 3]) * 20, tuple(source.gauss(-1, 2) for _ in range(BETS)))
    return encode_suspicion(state)


SUSPICION = _suspicion()


def _suspicions(data: bytes) -> bool:
    """A state that is read can be used, and goes on."""
    try:
        state = decode_suspicion(data)
    except BadMessage:
        return False
    after = add_answer(state, b"\x09" * 20, (0.5,) * BETS)
    assert after.log_e == after.log_e, "a process that is no number"
    return True


PIECE = Piece(CONTENT, 10, ROWS, b"{}")
OFFER = SignedOffer(Offer(PROVIDER.account, SERVICE, 1, 2, 3, ZERO32, 1), b"\x00" * 65, "echo", b"{}")
REQUEST = CallRequest(ORDER, b"\x00" * 16, SALT, "chat.completions", BODY)
_, SIGNED_BATCH = extend_lane(LaneState(lane=LANE), [RECEIPT.struct_hash()], [RECEIPT.cost], PROVIDER, DOMAIN)
CALL_ID = ORDER.call_id
UP = (
    Part(CALL_ID, PIECE),
    Done(CALL_ID, RECEIPT, PIECE),
    Fail(CALL_ID, Failure("busy", "full", retry_after_s=1.5)),
    Chain(SIGNED_BATCH, (CALL_ID,), (LeafEntry(ORDER, b"\x00" * 16, RECEIPT),)),
    Terms((OFFER,)),
    Show(RECEIPT.struct_hash(), True, 0, 1, CLAIM),
)
DOWN = (Open(REQUEST, 8), Grant(CALL_ID, 3), Ask(RECEIPT.struct_hash()))
FIRST = (Hello(1, ZERO32, PROVIDER.account, ZERO32), Proof(b"\x00" * 65, b"", 0, 4, (OFFER,)))


def _frames(direction: object) -> Callable[[bytes], bool]:
    decoder: FrameDecoder[object] = FrameDecoder(direction)

    def check(data: bytes) -> bool:
        try:
            frames = decoder.decode(data)
        except BadMessage:
            return False
        for frame in frames:
            try:
                if isinstance(frame, Done):
                    checks.check_receipt(frame.receipt)
                    check_terms(ORDER, ORDER.struct_hash(), frame.receipt)
                elif isinstance(frame, Open):
                    checks.check_order(frame.request.order)
                    frame.request.order.struct_hash()
                elif isinstance(frame, Chain):
                    checks.check_signed_batch(frame.signed)
            except PeerError:
                continue
            encode_frame(frame)  # type: ignore[arg-type]
        return True

    return check


def _seed(frames: tuple[object, ...]) -> tuple[bytes, ...]:
    encoded = [encode_frame(frame) for frame in frames]  # type: ignore[arg-type]
    return (join_frames(encoded), *(join_frames([frame]) for frame in encoded))


TARGETS = (
    Target("evidence", (CLAIM, encode_claim(10, b""), encode_claim(10, HONEST_ROWS[:72])), _claims),
    Target("replays", (REPLAY, encode_breach(MALFORMED), encode_replay(10, b"", [])), _replays),
    Target("receipts", (msgspec.msgpack.encode(RECEIPT),), _receipts),
    Target("case files", (CASE,), _cases),
    Target("verdict blobs", (VERDICTS_BLOB,), _verdicts),
    Target("nulls", (NULL,), _nulls),
    Target("suspicions", (SUSPICION, encode_suspicion(Suspicion())), _suspicions),
    Target("frames to gateways", _seed(UP), _frames(ToGateway)),
    Target("frames to nodes", _seed(DOWN), _frames(ToNode)),
    Target("first frames", _seed(FIRST), _frames(ToGatewayFirst)),
)
