"""How much gas a call needs.

1. Exact where the call's need doesn't depend on what it is given: one run at the cap, one at what that run spent.
2. Where it does (a callee gets 63/64 of what is left), a search closes in from above to within 1.5 percent.

Source: geth, `eth/gasestimator`; EIP-150.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.chain.embedded.engine import CallOutcome
from steelyard.chain.embedded.reverts import reverted
from steelyard.errors import Refusal

CALL_STIPEND = 2_300
ERROR_RATIO = 0.015


def estimate_gas(run: Callable[[int], CallOutcome], *, cap: int, floor: int) -> int:
    """Return a gas limit with which the call succeeds.

    Args:
        run: executes the call with a gas limit, over an unchanged state.
        cap: the most that may be given: the block's limit, the caller's own, or what it can pay for.
        floor: the least that any such transaction must name.

    Raises:
        Reverted: the contract refused. Refusal: it fails otherwise, or needs more than the cap.
    """
    if cap < floor:
        raise Refusal(f"gas required exceeds allowance ({cap})", code="gas_limit")
    at_cap = run(cap)
    if at_cap.is_revert:
        raise reverted(at_cap.output)
    if at_cap.error == "out of gas":
        raise Refusal(f"gas required exceeds allowance ({cap})", code="gas_limit")
    if at_cap.error:
        raise Refusal(at_cap.error, code="execution_failed")
    low = max(at_cap.gas_spent, floor)
    if low >= cap or not run(low).error:
        return min(low, cap)
    high = cap
    guess = (at_cap.gas_spent + CALL_STIPEND) * 64 // 63
    if low < guess < cap:
        if run(guess).error:
            low = guess
        else:
            high = guess
    while high - low > high * ERROR_RATIO:
        middle = min((high + low) // 2, low * 2)  # most needs lie near the low end
        if run(middle).error:
            low = middle
        else:
            high = middle
    return high
