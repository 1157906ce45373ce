"""Why a contract refused, in words: revert data decoded by the errors of every ABI that we carry.

1. Nothing here fails: data that can't be decoded is shown as hex.
2. `reason` is stable and for programs and logs, ``ERC20InsufficientBalance(sender=0x…, balance=5, needed=10)``;
   the advice after it is for people.

Law: the Solidity ABI specification, "Error handling"; docs/spec/money.md for our own errors.
"""

from __future__ import annotations

from typing import Any

from steelyard.chain.abi import decode_values, load_errors
from steelyard.errors import ChainError, Reverted

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
    """Return (reason, advice) for revert data; untrusted, may be empty; the advice may be empty too."""
    selector, body = data[:4], data[4:]
    try:
        if selector == _ERROR_STRING:
            return str(decode_values(("string",), body, "revert")[0]), ""
        if selector == _PANIC:
            code = decode_values(("uint256",), body, "revert")[0]
            return f"Panic(0x{code:02x}: {_PANICS.get(code, 'unknown')})", "this is a defect of the contract: report it"
        error = load_errors().get(selector)
        if error is not None:
            values = error.decode(data)
            reason = f"{error.name}({', '.join(f'{name}={_show(value)}' for name, value in values.items())})"
            return reason, _ADVICE.get(error.name, "").format(**{name: _show(v) for name, v in values.items()})
    except (ChainError, KeyError, IndexError):
        pass  # an error of another contract with our selector, or other names: its bytes are shown instead
    if not data:
        return "", "the contract gave no reason: wrong address, wrong arguments or too little gas"
    return f"0x{data.hex()}", "no contract of ours has this error: is the address right?"


def build_reverted(data: bytes, what: str) -> Reverted:
    """Return the error for a refused `what` (``redeem``, ``eth_call to 0x…``) with its revert data."""
    reason, advice = explain_revert(data)
    words = f"the chain refused {what}" + (f": {reason}" if reason else "") + (f"; {advice}" if advice else "")
    return Reverted(words, reason=reason, data=data)


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show(part) for part in value) + "]"
    return str(value)


# What to do about the errors that a user can cause; {names} are the error's own parameters.
_ADVICE = {
    "ERC20InsufficientBalance": "{sender} holds {balance} nano and needs {needed}: fund it first",
    "ERC20InsufficientAllowance": "{spender} may take {allowance} nano and needs {needed}: approve it first",
    "ERC2612ExpiredSignature": "the permit's deadline has passed: sign a new one",
    "ERC2612InvalidSigner": "the permit is signed by {signer}, not by {owner}",
    "AccessManagedUnauthorized": "{caller} has no role for this",
    "AccessManagerUnauthorizedAccount": "{msgsender} lacks role {roleId}",
    "AlreadyCommitted": "a validator has one secret for an epoch",
    "AlreadyPosted": "a root stays as it was posted first",
    "AlreadyRegistered": "a service never changes: register another name",
    "AlreadyVoted": "the first vote stays",
    "BadCharacter": "names are made of a-z 0-9 - . _ : /",
    "BadLength": "between {least} and {most} bytes are needed, not {length}",
    "BadSignature": "the offer is not signed by its provider for this deployment",
    "BadSplit": "the four shares must add up to 10000 basis points",
    "ClaimTooHigh": "at most {payable_} nano can be claimed on this lane",
    "EpochBegun": "the chain is at epoch {current}: commit for a later one",
    "FutureEpoch": "the chain is at epoch {current}",
    "InsufficientDeposit": "the deposit is {deposit} nano",
    "InsufficientStake": "the stake is {stake} nano",
    "MissingDataPot": "a data share needs an account that receives it",
    "NotActive": "{account} has too little stake for role {role}: stake first",
    "NotDrawn": "{account} has no seat on this panel",
    "NotTallied": "tally the epoch first: {missing} validators are left",
    "NothingAnnounced": "announce a withdrawal first",
    "NothingAtStake": "{account} has no stake in role {role} that could be slashed",
    "NothingToReveal": "it was never committed, or revealed before",
    "NothingUnbonding": "start to unbond first",
    "StaleSeq": "an offer with number {current} stands: sign a higher one",
    "StillLocked": "a challenge holds the stake until Unix time {until}",
    "StillOwing": "{owed} nano are owed to providers: deposit them first",
    "StillUnbonding": "wait until Unix time {readyAt}",
    "StillWaiting": "wait until Unix time {readyAt}",
    "TooEarly": "wait until Unix time {readyAt}",
    "TooLate": "the time for it ended at Unix time {until}",
    "UnbondingTooShort": "unbonding must take longer than {needed} s",
    "UnknownService": "register the service first",
    "WrongMember": "the ticket of seat {seat} fell on somebody else: draw by the court's own rule",
    "WrongPhase": "the case is in phase {phase} (1 drawing, 2 voting, 3 convicted, 4 closed)",
    "WrongSecret": "another secret was committed",
    "WrongVote": "another vote or another salt was committed",
}
