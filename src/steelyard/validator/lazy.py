"""Lazy validators: who signs PASS on an answer that is blatantly wrong did not check it.

1. Guilty is whose published PASS stands on an answer that the juror's own replay finds wrong beyond doubt: a breach of
   a rule, another result of an exact kind, or evidence of `challenge_e` from this one answer. An honest check of the
   same bytes can't have found that right.
2. What the validator saw is what the juror sees: the receipt binds request, response and evidence, whoever shows them.
3. A plant is such an answer, made on purpose: by a provider of the planter's own, bought through one gateway, so that
   it can't ever reach a case of cheating. No promise is made before: it would be a licence to cheat, and adds nothing.
4. A conviction covers all laziness until its case was opened; one answer is enough for a file.

Law: docs/spec/validator.md, section 9; docs/decisions/003-planted-answers.md.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

import msgspec
import structlog

from steelyard.chain.cases import NO_TOPIC, Case, CaseKind
from steelyard.chain.court import CourtClient
from steelyard.chain.sender import Sender
from steelyard.errors import BadMessage, NotProvable, PeerError, Reverted
from steelyard.protocol.cid import Cid
from steelyard.protocol.messages import Outcome
from steelyard.protocol.signing import Domain, require_signer
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.storage.blobs import BlobStore
from steelyard.validator.book import Book
from steelyard.validator.case_file import MAX_FILE_BYTES, Material, decode_material
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.juror import given, open_material
from steelyard.validator.opened import has_evidence, open_texts
from steelyard.validator.record import LedgerRecord
from steelyard.verification.parameters import SHIPPED, CheckParameters

VERSION = 1
_log = structlog.get_logger("steelyard.validator")


class LazyFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The file of a case: an answer with all that opens it, and the verdict that the accused published on it."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    answer: Material
    verdict: PublishedVerdict


_decode = msgspec.msgpack.Decoder(LazyFile).decode


def encode_lazy(answer: Material, verdict: PublishedVerdict) -> bytes:
    """Return the file's bytes."""
    return msgspec.msgpack.encode(LazyFile(VERSION, answer, verdict))


def decode_lazy(blob: bytes, accused: bytes, domain: Domain) -> LazyFile:
    """Return what a file (untrusted) holds: the accused's own PASS on an answer that opens.

    Raises:
        PeerError: it doesn't; says why.
    """
    if len(blob) > MAX_FILE_BYTES:
        raise BadMessage(f"a case file has at most {MAX_FILE_BYTES} bytes, this one {len(blob)}")
    try:
        file = _decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"this is no case file: {error}") from error
    answer, verdict = file.answer, file.verdict.verdict
    for part in (answer.order, answer.receipt, answer.signed.batch, verdict):
        part.check_fields()
    open_material(answer, domain)
    open_texts(answer.order, answer.receipt, answer.call)
    if has_evidence(answer.receipt) and not answer.claimed:
        raise BadMessage("the answer's evidence is not in the file")
    if (verdict.validator, verdict.receipt) != (accused, answer.receipt.struct_hash()):
        raise BadMessage("the verdict is another validator's, or on another answer")
    if verdict.outcome != Outcome.PASS:
        raise BadMessage("the accused did not say PASS")
    require_signer(domain.digest(verdict.struct_hash()), file.verdict.signature, accused, "verdict")
    return file


def is_blatant(checked: Checked, parameters: CheckParameters = SHIPPED) -> bool:
    """Say whether an answer is wrong beyond doubt, by one replay."""
    if checked.judgement.outcome is not Outcome.FAIL:
        return False
    return checked.evidence is None or checked.evidence.log_e >= math.log(parameters.challenge_e)


async def judge_lazy(
    blob: bytes, accused: bytes, since_s: int, find: Callable[[bytes], Awaitable[Checkable | None]], domain: Domain
) -> Outcome:
    """Return this juror's vote on a case of laziness.

    Args:
        blob: the case's file; untrusted. since_s: Unix seconds; what was done until then has been punished.
        find: how this machine checks a service, by its id.
    """
    try:
        file = decode_lazy(blob, accused, domain)
    except PeerError:
        return Outcome.PASS
    answer = file.answer
    if answer.receipt.finished_ms // 1000 <= since_s:
        return Outcome.PASS
    checkable = await find(answer.order.service_id)
    checked = await check_call(
        answer.order, answer.receipt, checkable, partial(given, answer.call), partial(given, answer.claimed)
    )
    if checked.judgement.outcome is Outcome.ABSTAIN:
        return Outcome.ABSTAIN
    return Outcome.FAIL if is_blatant(checked) else Outcome.PASS


class LazyWatch:
    """Takes to court who published a PASS where this validator's own check found a blatant FAIL; and judges such cases.

    Args:
        sender: the validator's. find: how a service is checked here. is_challenging: open cases.
    """

    def __init__(
        self,
        book: Book,
        record: LedgerRecord,
        blobs: BlobStore,
        court: CourtClient,
        sender: Sender,
        domain: Domain,
        find: Callable[[bytes], Awaitable[Checkable | None]],
        *,
        is_challenging: bool,
    ) -> None:
        self._book = book
        self._record = record
        self._blobs = blobs
        self._court = court
        self._sender = sender
        self._domain = domain
        self._find = find
        self._is_challenging = is_challenging
        self._read = 0

    async def judge_case(self, case: Case) -> Outcome:
        """Return this juror's vote on a case, whose file is in the blob store."""
        try:
            blob = await self._blobs.get(Cid(case.evidence))
        except NotProvable:
            return Outcome.ABSTAIN
        return await judge_lazy(blob, case.accused, case.since_s, self._find, self._domain)

    async def beat(self) -> None:
        """Compare what others published since the last time with what was found here; raises ChainError."""
        while self._is_challenging and self._read < len(self._record.posted):
            posted = self._record.posted[self._read]
            if posted.blob.validator != self._sender.account:
                await self._compare(posted.blob.validator, posted.blob.verdicts)
            self._read += 1

    async def _compare(self, validator: bytes, verdicts: tuple[PublishedVerdict, ...]) -> None:
        passed = {item.verdict.receipt: item for item in verdicts if item.verdict.outcome == Outcome.PASS}
        for row in await self._book.fails_on(list(passed)):
            if row.material is None:
                continue
            file = encode_lazy(decode_material(row.material), passed[row.receipt_hash])
            standing = await self._court.fetch_standing(CaseKind.LAZY, validator, NO_TOPIC)
            if standing.open_cases:
                return
            if await judge_lazy(file, validator, standing.settled_until_s, self._find, self._domain) != Outcome.FAIL:
                continue
            cid = await self._blobs.put(file)
            try:
                number = await self._court.open_case(self._sender, CaseKind.LAZY, validator, NO_TOPIC, cid.digest)
                _log.warning("lazy_validator_challenged", case=number, validator=validator.hex())
            except Reverted as error:
                _log.warning("lazy_validator_not_challenged", validator=validator.hex(), reason=error.message)
            return
