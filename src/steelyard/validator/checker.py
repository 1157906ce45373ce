"""One check from beginning to end: fetch, open, replay, compare, judge.

1. Whose lack is it? Texts that the gateway doesn't show or that don't hash abstain; evidence that isn't served abstains
   and is demanded on chain; evidence that opens the receipt and breaks a rule fails.
2. Exact kinds are run again and compared by their bytes; they need no evidence.
3. The same inputs give the same finding on every machine of one engine: a panel's members run this very code.

Law: docs/spec/validator.md, section 3; docs/spec/checking.md, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec

from steelyard.errors import BadMessage, BadRequest, PeerError, SteelyardError
from steelyard.protocol.messages import FinishReason, Grade, Order, Receipt
from steelyard.services.port import Context, Request, Result, Service
from steelyard.services.text_requests import TextPayload
from steelyard.validator.gateway_client import ShownCall
from steelyard.validator.opened import has_evidence, open_texts, opens
from steelyard.validator.replayer import CantReplay, Replayer
from steelyard.verification.betting import AnswerEvidence, least_evidence, weigh_answer
from steelyard.verification.null import Null
from steelyard.verification.scores import Regime, regime_of
from steelyard.verification.verdict import Finding, Judgement, Lack, judge


class Checked(msgspec.Struct, frozen=True):
    """What a check came to. `evidence` is set where an answer was weighed; `claimed` is the provider's blob."""

    judgement: Judgement
    evidence: AnswerEvidence | None = None
    claimed: bytes = b""


class Checkable(msgspec.Struct, frozen=True):
    """How this validator checks one service.

    Attributes:
        service: the kind, bound to the registered manifest. is_exact: its answers are compared by their bytes.
        replayer: None: nobody can.
        null: calibrated for the manifest and both engines, or None.
    """

    service: Service
    is_exact: bool
    replayer: Replayer | None
    null: Null | None


FetchCall = Callable[[], Awaitable[ShownCall | None]]
FetchEvidence = Callable[[], Awaitable[bytes | None]]


async def check_call(
    order: Order, receipt: Receipt, checkable: Checkable | None, fetch_call: FetchCall, fetch_evidence: FetchEvidence
) -> Checked:
    """Check one call whose receipt stands in a batch that its provider signed.

    Args:
        checkable: for the service; None if its manifest or kind is not to be had here.
        fetch_call, fetch_evidence: None for what isn't kept, or isn't served.

    Raises:
        Unavailable: the gateway is silent: the check is to be tried again.
    """
    if checkable is None:
        return _lack(Lack.MODEL)
    call = await fetch_call()
    if call is None:
        return _lack(Lack.CALL)
    try:
        result = open_texts(order, receipt, call)
        request = checkable.service.parse(call.api, call.body)
    except (PeerError, BadRequest):
        return _lack(Lack.CALL)  # the gateway shows another call than it sent
    if checkable.is_exact:
        return await _check_exact(checkable.service, request, result, order)
    if order.grade in (Grade.UNCHECKED, Grade.LOGPROBS):
        return _lack(Lack.UNCHECKABLE)
    claimed = b""
    if has_evidence(receipt):
        served = await fetch_evidence()
        if served is None or not opens(receipt, served):
            return _lack(Lack.EVIDENCE)  # a relay can spoil it on the way: only the chain settles who is silent
        claimed = served
    return await check_evidence(request, call, result, claimed, order, checkable)


async def check_evidence(
    request: Request, call: ShownCall, result: Result, claimed: bytes, order: Order, checkable: Checkable
) -> Checked:
    """Check an answer whose texts and evidence all open the receipt; what panels do with a case's blob, too."""
    if checkable.replayer is None:
        return _lack(Lack.MODEL)
    try:
        replayed = await checkable.replayer.replay(request, call, result, claimed, order)
    except BadMessage as error:
        return Checked(judge(Finding(is_bound=True, breach=error.code)), None, claimed)
    except CantReplay as error:
        return _lack(error.lack)
    regime = _regime(request)
    weighed: list[str | AnswerEvidence | None] = []
    for blob in replayed.blobs:
        try:
            comparison = checkable.service.compare(result, claimed, blob)
        except BadMessage:
            return _lack(Lack.SELLERS)  # a seller's replay can't be read
        if not comparison.is_wellformed:
            weighed.append(comparison.code)
        elif checkable.null is not None:
            weighed.append(weigh_answer(checkable.null, regime, comparison.scores))
        else:
            weighed.append(None)
    return Checked(*_agree(weighed), claimed)


def _agree(weighed: list[str | AnswerEvidence | None]) -> tuple[Judgement, AnswerEvidence | None]:
    """What all replays say together: the same breach, or of each bet the least."""
    breaches = {item for item in weighed if isinstance(item, str)}
    evidences = [item for item in weighed if isinstance(item, AnswerEvidence)]
    if breaches:
        if len(breaches) == 1 and not evidences and None not in weighed:
            return judge(Finding(is_bound=True, breach=breaches.pop())), None
        return judge(Finding(lack=Lack.SELLERS)), None
    if not evidences:
        return judge(Finding(lack=Lack.CALIBRATION)), None
    evidence = evidences[0]
    for other in evidences[1:]:
        evidence = least_evidence(evidence, other)
    return judge(Finding(is_bound=True, evidence=evidence)), evidence


async def _check_exact(service: Service, request: Request, result: Result, order: Order) -> Checked:
    context = Context(order.call_id, order.sampler_seed)
    content, units_in, units_out = bytearray(), 0, 0
    try:
        async with aclosing(service.run(request, context)) as chunks:
            async for chunk in chunks:
                content += chunk.content
                units_in += chunk.units_in
                units_out += chunk.units_out
    except SteelyardError:
        return _lack(Lack.MODEL)
    if result.finish >= FinishReason.CANCELLED:  # a part is all that was wanted, or all that arrived
        is_part = content.startswith(result.content) and result.units_out <= units_out
        is_match = is_part and result.units_in in (0, units_in)
    else:
        is_match = bytes(content) == result.content and (units_in, units_out) == (result.units_in, result.units_out)
    return Checked(judge(Finding(is_bound=True, is_match=is_match)))


def _regime(request: Request) -> Regime:
    payload = request.payload
    if isinstance(payload, TextPayload):
        return regime_of(payload.sampling.temperature)
    return Regime.COOL


def _lack(lack: Lack) -> Checked:
    return Checked(judge(Finding(lack=lack)))


def micro_nats(log_e: float) -> int:
    """Return a logarithm as a whole number of millionths, for the record; bounded so that it fits 64 bits."""
    return math.floor(max(-1e12, min(1e12, log_e)) * 1e6)
