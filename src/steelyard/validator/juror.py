"""How a panel's member judges a case: by doing the checks of its file again, with its own engine.

1. Nothing of the challenger is believed: each answer opens from what its provider signed, and is replayed here.
2. Guilty is who reaches the threshold by the juror's own replays, over the whole run, and without any single gateway's
   answers; the later the run begins, the higher the threshold.
3. A file acquits that doesn't open, shows what was punished before, or claims more harm than the failed answers cost;
   what the juror lacks abstains.

Law: docs/spec/validator.md, section 7.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import TypeVar

from steelyard.errors import BadMessage, PeerError
from steelyard.protocol.merkle import merkle_root
from steelyard.protocol.messages import Outcome
from steelyard.protocol.signing import Domain, require_signer
from steelyard.validator.book import bets_of
from steelyard.validator.case_file import CaseFile, Material, decode_case
from steelyard.validator.checker import Checkable, check_call
from steelyard.validator.opened import opens
from steelyard.verification.eprocess import Suspicion, add_answer
from steelyard.verification.parameters import SHIPPED, CheckParameters

T = TypeVar("T")


async def judge_case(
    blob: bytes,
    accused: bytes,
    service_id: bytes,
    claims: Iterable[tuple[bytes, int]],
    checkable: Checkable | None,
    domain: Domain,
    parameters: CheckParameters = SHIPPED,
    *,
    since_s: int = 0,
) -> Outcome:
    """Return this juror's vote on a case of cheating.

    Args:
        blob: the case's file; untrusted. claims: (lane key, nano) that the challenger wants for gateways.
        checkable: how this machine checks the service, or None.
        since_s: Unix seconds; what was done until then has been punished.
    """
    try:
        case = decode_case(blob)
        if (case.provider, case.service_id) != (accused, service_id):
            raise BadMessage("the file is about another provider or service")
        for answer in case.answers:
            open_material(answer, domain)
            if is_settled(answer, since_s):
                raise BadMessage("an answer was punished before")
    except PeerError:
        return Outcome.PASS
    if checkable is None:
        return Outcome.ABSTAIN
    suspicion, failed = Suspicion(), Counter[bytes]()
    for answer in case.answers:
        checked = await check_call(
            answer.order, answer.receipt, checkable, partial(given, answer.call), partial(given, answer.claimed)
        )
        bets = bets_of(checked)
        if bets is None:
            return Outcome.ABSTAIN
        suspicion = add_answer(suspicion, answer.order.gateway, bets)
        if checked.judgement.outcome is Outcome.FAIL:
            failed[answer.order.lane.key] += answer.receipt.cost
    if any(nano > failed[lane] for lane, nano in claims):
        return Outcome.PASS
    return Outcome.FAIL if is_proven(suspicion, case, parameters) else Outcome.PASS


def is_proven(suspicion: Suspicion, case: CaseFile, parameters: CheckParameters = SHIPPED) -> bool:
    """Say whether a run of answers convicts; a run that begins at the challenger's answer k needs k^2 times more."""
    threshold = math.log(parameters.challenge_e) + 2 * math.log(case.first)
    return min(suspicion.log_e, suspicion.log_e_without_any) >= threshold


def is_settled(answer: Material, since_s: int) -> bool:
    """Say whether an answer ended no later than a conviction covers."""
    return answer.receipt.finished_ms // 1000 <= since_s


def open_material(answer: Material, domain: Domain) -> None:
    """Check that an answer opens by itself; raises PeerError, saying what doesn't."""
    order, receipt, batch = answer.order, answer.receipt, answer.signed.batch
    if order.lane != batch.lane or receipt.order_hash != order.struct_hash():
        raise BadMessage("an answer's receipt is for another order, or its batch of another lane")
    if receipt.struct_hash() not in answer.receipts or merkle_root(answer.receipts) != batch.receipts_root:
        raise BadMessage("an answer's receipt is not under its batch's root")
    require_signer(domain.digest(batch.struct_hash()), answer.signed.signature, batch.provider, "batch")
    if answer.claimed and not opens(receipt, answer.claimed):
        raise BadMessage("an answer's evidence is not what its receipt commits to")


async def given(value: T) -> T:
    """Return a value that needs no fetching."""
    return value
