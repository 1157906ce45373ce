"""Why a contract refused, in words: revert data decoded by the errors of every ABI that we carry.

1. Nothing here fails: data that can't be decoded is shown as hex.
2. `reason` is stable and for programs and logs, ``ERC20InsufficientBalance(sender=0x…, balance=5, needed=10)``; people
   read a sentence that says the same once, with amounts in YARD, roles by name and times in UTC.

Law: the Solidity ABI specification, "Error handling"; docs/spec/money.md for our own errors.
"""

from __future__ import annotations

import time
from typing import Any

from steelyard.chain.abi import decode_values, load_errors
from steelyard.errors import ChainError, Reverted
from steelyard.protocol.pricing import format_yard

_ERROR_STRING = bytes.fromhex("08c379a0")
_PANIC = bytes.fromhex("4e487b71")
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow or underflow",
    0x12: "division by zero",
    0x21: "value outside an enum",
    0x31: "pop of an empty array",
    0x32: "index out of bounds",
    0x41: "out of memory",
    0x51: "call of an unset function pointer",
}


def explain_revert(data: bytes) -> tuple[str, str]:
    """Return (reason, sentence) for revert data; untrusted, may be empty; the reason of empty data is empty too."""
    selector, body = data[:4], data[4:]
    try:
        if selector == _ERROR_STRING:
            words = str(decode_values(("string",), body, "revert")[0])
            return words, words
        if selector == _PANIC:
            code = decode_values(("uint256",), body, "revert")[0]
            reason = f"Panic(0x{code:02x}: {_PANICS.get(code, 'unknown')})"
            return reason, f"{reason}; this is a defect of the contract: report it"
        error = load_errors().get(selector)
        if error is not None:
            values = error.decode(data)
            reason = f"{error.name}({', '.join(f'{name}={_show(value)}' for name, value in values.items())})"
            if error.name not in _SENTENCES:
                return reason, reason
            return reason, f"{_SENTENCES[error.name].format(**_spell(values))} ({error.name})"
    except (ChainError, KeyError, IndexError):
        pass  # an error of another contract with our selector, or other names: its bytes are shown instead
    if not data:
        return "", "the contract gave no reason: wrong address, wrong arguments or too little gas"
    return f"0x{data.hex()}", f"0x{data.hex()}; no contract of ours has this error: is the address right?"


def build_reverted(data: bytes, what: str) -> Reverted:
    """Return the error for a refused `what` (``redeem``, ``eth_call to 0x…``) with its revert data."""
    reason, sentence = explain_revert(data)
    return Reverted(f"the chain refused {what}: {sentence}", reason=reason, data=data)


def _spell(values: dict[str, Any]) -> dict[str, str]:
    """Return each value as it stands and, for numbers, as an amount, a role and a time: a sentence takes its own."""
    spelled = {name: _show(value) for name, value in values.items()}
    for name, value in values.items():
        if isinstance(value, int):
            spelled |= {f"{name}_yard": _yard(value), f"{name}_role": _ROLES.get(value, str(value))}
            spelled[f"{name}_time"] = _clock(value)
    if isinstance(values.get("needed"), int) and isinstance(values.get("balance"), int):
        spelled["missing_yard"] = _yard(values["needed"] - values["balance"])
    return spelled


def _yard(nano: int) -> str:
    """Return an amount in YARD, with the nano where its decimals are hard to count."""
    return f"{format_yard(nano)} YARD" + (f" ({nano} nano)" if nano % 1000 else "")


def _clock(time_s: int) -> str:
    if time_s >= 2**36:  # past the year 4000: no time, or a hostile number
        return f"Unix time {time_s}"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_s))


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show(part) for part in value) + "]"
    return str(value)


_ROLES = {1: "provider", 2: "gateway", 3: "validator"}  # chain.registry.Role, which imports this module

# What the errors say that a user can cause, and what to do; {names} are the error's own parameters, as in `_spell`.
_SENTENCES = {
    "ERC20InsufficientBalance": (
        "{sender} holds {balance_yard} and needs {needed_yard}: {missing_yard} is missing, fund it first"
    ),
    "ERC20InsufficientAllowance": "{spender} may take {allowance_yard} and needs {needed_yard}: approve it first",
    "ERC2612ExpiredSignature": "the permit's deadline has passed: sign a new one",
    "ERC2612InvalidSigner": "the permit is signed by {signer}, not by {owner}",
    "AboveCap": "{total_yard} is above the {cap_yard} that may be given back for the epoch",
    "AccessManagedUnauthorized": "{caller} has no role for this",
    "AccessManagerUnauthorizedAccount": "{msgsender} lacks role {roleId}",
    "AlreadyCommitted": "{validator} has committed a secret for epoch {epoch}, and a validator has one for an epoch",
    "AlreadyPosted": "a root stays as it was posted first",
    "AlreadyRegistered": "the service is registered already and never changes: register another name",
    "AlreadyVoted": "the first vote stays",
    "BadCharacter": "character {position} can't be in a name: it is made of a-z 0-9 - . _ : /",
    "BadLength": "between {least} and {most} bytes are needed, not {length}",
    "BadSignature": "the offer is not signed by its provider for this deployment",
    "BadSplit": "the four shares add up to {sum} basis points, not to 10000",
    "ClaimTooHigh": "{amount_yard} was claimed on a lane that has at most {payable__yard}",
    "Disputed": "the court has {openCases} open cases against this root: wait until they are closed",
    "EpochBegun": "the chain is at epoch {current}: commit for a later one",
    "EpochNotOver": "the chain is at epoch {current}: propose for an earlier one",
    "FutureEpoch": "the chain is at epoch {current}",
    "InsufficientDeposit": "the deposit is {deposit_yard}, {wanted_yard} was wanted",
    "InsufficientStake": "the stake is {stake_yard}, {wanted_yard} was wanted",
    "LowerTotal": "the last final root promises {last_yard}, and none may promise less",
    "MissingDataPot": "a data share needs an account that receives it",
    "NotActive": "{account} has too little stake as {role_role}: run steelyard stake {role_role} AMOUNT first",
    "NotDrawn": "{account} has no seat on this panel",
    "NotSignedBy": "{signer} did not sign this for this deployment",
    "NotTallied": "tally the epoch first: {missing} validators are left",
    "NothingAnnounced": "announce a withdrawal first",
    "NothingAtStake": "{account} has no stake as {role_role} that could be slashed",
    "NothingDue": "{account} was paid {claimed_yard} before, and the root's purse holds {purse_yard}",
    "NothingToReveal": "it was never committed, or revealed before",
    "NothingUnbonding": "start to unbond first",
    "StaleEpoch": "the last final root covers epoch {last}: propose for a later one",
    "StaleSeq": "an offer with number {current} stands: sign a higher one than {given}",
    "StillLocked": "a challenge holds the stake until {until_time}",
    "StillOwing": "{owed_yard} is owed to providers: deposit it first",
    "StillUnbonding": "wait until {readyAt_time}",
    "StillWaiting": "wait until {readyAt_time}",
    "TooEarly": "wait until {readyAt_time}",
    "TooLate": "the time for it ended at {until_time}",
    "UnbondingTooShort": "unbonding takes {unbondDelay} s, it must take longer than {needed} s",
    "UnknownService": "there is no service {serviceId}: register it first",
    "WrongMember": "the ticket of seat {seat} fell on somebody else: draw by the court's own rule",
    "WrongPhase": "the case is in phase {phase} (1 drawing, 2 voting, 3 convicted, 4 closed)",
    "WrongProof": "the root has no leaf of {cumulative_yard} for {account} by this proof",
    "WrongSecret": "another secret was committed",
    "WrongState": "the root is in state {state} (0 unknown, 1 pending, 2 final, 3 void, 4 lapsed)",
    "WrongVote": "another vote or another salt was committed",
}
