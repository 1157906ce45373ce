"""How evidence against a provider at a service adds up over answers, and when it is enough for a challenge.

1. Each cell holds one bet of the grid at one size: whole, or a part of the stake per answer, so that honest answers
   between cheated ones cost little. Over answers a cell multiplies; over all cells and all starting answers the process
   is their mean, with weights w_k = 1/(k(k+1)) for a start at answer k.
2. So a clean past can't be spent: after t clean answers a fresh start still weighs 1/(t(t+1)). And nobody who is honest
   ever reaches 1/alpha with a chance above alpha, however long one looks (Ville).
3. Beside the process over all answers, one is kept without each gateway's. A challenge is due when all of them have
   reached the threshold, so one dishonest gateway can't bring it about, nor can the only one.
4. The first 16 gateways have groups of their own; later ones join the smallest group, and beyond 256 the group that
   their account's hash says. Leaving out a group leaves out each of its gateways: it costs power, never validity.
5. The state does not grow with the answers.

Law: docs/spec/checking.md, section 6.  Source: Ville 1939; mixtures of e-processes over start times as in Shin, Ramdas,
Rinaldo, "E-detectors" (arXiv 2203.03532).
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.hashing import keccak
from steelyard.verification.betting import BETS, checked_bets, log_add, log_mean
from steelyard.verification.parameters import SHIPPED, CheckParameters

SIZES = (1.0, 1 / 16, 1 / 128)
"""Parts of the stake that are bet on an answer; of the rest nothing can be lost."""
CELLS = BETS * len(SIZES)
MAX_GROUPS = 16
MAX_GATEWAYS = 256
MAX_STATE_BYTES = 256 * 1024

_Cells = Annotated[tuple[float, ...], msgspec.Meta(max_length=CELLS)]


class Process(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One e-process: how many answers it saw, and per cell the logarithm of the weighted sum over its starts so far.

    `log_sums` is empty before the first answer; cells in the order of `SIZES`, then of the answer's bets.
    """

    count: int = 0
    log_sums: _Cells = ()

    @property
    def log_e(self) -> float:
        """Natural logarithm of the process; 0 before the first answer."""
        begun = log_mean(self.log_sums) if self.log_sums else -math.inf
        return log_add(begun, -math.log(self.count + 1))


class Suspicion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is remembered of a provider at a service.

    Attributes:
        whole: over all its answers. without: for each group of gateways the process over the other answers.
        groups: the group of each gateway (20-byte account) seen so far, up to `MAX_GATEWAYS` of them.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    whole: Process = Process()
    without: Annotated[tuple[Process, ...], msgspec.Meta(max_length=MAX_GROUPS)] = ()
    groups: Annotated[dict[bytes, int], msgspec.Meta(max_length=MAX_GATEWAYS)] = {}

    @property
    def log_e(self) -> float:
        """Natural logarithm of the process over all answers."""
        return self.whole.log_e

    @property
    def log_e_without_any(self) -> float:
        """The least of the processes that leave out one group of gateways; 0 before the first answer."""
        return min((process.log_e for process in self.without), default=0.0)


def add_answer(suspicion: Suspicion, gateway: bytes, log_bets: tuple[float, ...]) -> Suspicion:
    """Return the state after one more audited answer.

    Args:
        gateway: 20 bytes, who bought the answer. log_bets: `AnswerEvidence.log_bets`; untrusted.

    Answers go in the order in which they were audited. Whether one goes in must not depend on its own evidence.

    Raises:
        BadMessage: the account has another length, or the evidence is no evidence.
    """
    if len(gateway) != 20:
        raise BadMessage(f"a gateway's account has 20 bytes, not {len(gateway)}")
    sized = _sized(checked_bets(log_bets))
    groups, without = dict(suspicion.groups), list(suspicion.without)
    group = groups.get(gateway)
    if group is None:
        group = _join(suspicion, gateway)
        if len(groups) < MAX_GATEWAYS:
            groups[gateway] = group
        if group == len(without):
            without.append(suspicion.whole)  # all that came before was not this gateway's
    return Suspicion(
        whole=_advance(suspicion.whole, sized),
        without=tuple(process if index == group else _advance(process, sized) for index, process in enumerate(without)),
        groups=groups,
    )


def is_challenge_due(suspicion: Suspicion, parameters: CheckParameters = SHIPPED) -> bool:
    """Tell whether the evidence is enough for a challenge: in all, and without any single gateway's answers."""
    threshold = math.log(parameters.challenge_e)
    return suspicion.log_e >= threshold and suspicion.log_e_without_any >= threshold


def encode_suspicion(suspicion: Suspicion) -> bytes:
    """Return the state's bytes (msgpack)."""
    return msgspec.msgpack.encode(suspicion)


def decode_suspicion(blob: bytes) -> Suspicion:
    """Return the state in untrusted bytes.

    Raises:
        BadMessage: too large, malformed, or a state that can't be; says which.
    """
    if len(blob) > MAX_STATE_BYTES:
        raise BadMessage(f"suspicion of {len(blob)} bytes, the limit is {MAX_STATE_BYTES}")
    try:
        state = msgspec.msgpack.decode(blob, type=Suspicion)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"suspicion is malformed: {error}") from error
    for process in (state.whole, *state.without):
        if process.count < 0 or len(process.log_sums) != (CELLS if process.count else 0):
            raise BadMessage(f"a process of {process.count} answers has {len(process.log_sums)} cells, not {CELLS}")
        if not all(map(math.isfinite, process.log_sums)):
            raise BadMessage("a process with a cell that is no finite number")
    if any(len(account) != 20 or not 0 <= at < len(state.without) for account, at in state.groups.items()):
        raise BadMessage("a gateway of a group that doesn't exist")
    return state


def _sized(log_bets: tuple[float, ...]) -> list[float]:
    """Each bet at each size: ln(1 - s + s e^bet)."""
    cells = list(log_bets)
    for size in SIZES[1:]:
        kept, part = math.log1p(-size), math.log(size)
        cells += [log_add(kept, part + value) for value in log_bets]
    return cells


def _advance(process: Process, sized: list[float]) -> Process:
    """S_t = e_t (S_{t-1} + w_t) in each cell."""
    count = process.count + 1
    start = -math.log(count) - math.log(count + 1)
    sums = process.log_sums or (-math.inf,) * CELLS
    return Process(count, tuple(value + log_add(total, start) for value, total in zip(sized, sums, strict=True)))


def _join(suspicion: Suspicion, gateway: bytes) -> int:
    """The group of a gateway that is not known: a new one, else the one with the fewest answers, else by its hash."""
    if len(suspicion.without) < MAX_GROUPS:
        return len(suspicion.without)
    if len(suspicion.groups) < MAX_GATEWAYS:
        return max(range(MAX_GROUPS), key=lambda index: suspicion.without[index].count)
    return keccak(gateway)[0] % MAX_GROUPS
