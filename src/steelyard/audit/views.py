"""The contracts' own answers beside the rebuilt books: each must say the same at the same block.

1. What to ask follows from the books alone, so that an account nobody mentioned can't be left out of a total.
2. Nothing here does I/O: `history.fetch_views` asks, this module names the questions and compares the answers.

Law: docs/spec/audit.md, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steelyard.audit.books import ROLES, Books
from steelyard.audit.findings import Finding, show
from steelyard.chain.artifacts import ContractName


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One read of a contract: "Yard", "Registry", …, a function, its arguments."""

    contract: ContractName
    function: str
    arguments: tuple[bytes | int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the books say that a question must be answered with; further values of the answer don't matter."""

    what: str
    values: tuple[int, ...]
    code: str = "view_differs"
    account: bytes | None = None
    lane: bytes | None = None


def list_expectations(books: Books) -> dict[Question, Expectation]:
    """Return every question that the books raise, with the answer that they expect."""
    return dict(_expectations(books))


def compare_views(
    expectations: Mapping[Question, Expectation], answers: Mapping[Question, tuple[int, ...]]
) -> list[Finding]:
    """Return a finding for each answer that is not the expected one; raises KeyError for one that lacks."""
    findings = []
    for question, expected in expectations.items():
        answer = answers[question][: len(expected.values)]
        if answer != expected.values:
            message = (
                f"{expected.what}: the events add up to {_show(expected.values)}, the contract says {_show(answer)}"
            )
            findings.append(Finding(code=expected.code, message=message, account=expected.account, lane=expected.lane))
    return findings


def _expectations(books: Books) -> Iterator[tuple[Question, Expectation]]:
    yield (
        Question(contract="Yard", function="totalSupply"),
        Expectation(what="the supply of YARD", values=(books.minted - books.burned,), code="supply_differs"),
    )
    for account, amount in books.wallets.items():
        yield (
            Question(contract="Yard", function="balanceOf", arguments=(account,)),
            Expectation(what=f"the wallet of {show(account)}", values=(amount,), account=account),
        )
    for function, amounts in (("stakeOf", books.stakes), ("unbondingOf", books.unbonding)):
        for (account, role), amount in amounts.items():
            what = f"{function} {show(account)} as {ROLES.get(role, role)}"
            yield (
                Question(contract="Registry", function=function, arguments=(account, role)),
                Expectation(what=what, values=(amount,), account=account),
            )
    for account, gateway in books.gateways.items():
        what = f"deposit and debt of gateway {show(account)}"
        yield (
            Question(contract="Escrow", function="accountOf", arguments=(account,)),
            Expectation(what=what, values=(gateway.remaining, gateway.owed), account=account),
        )
    for account, amount in books.unswept.items():
        what = f"the unswept shares of {show(account)}"
        yield (
            Question(contract="Escrow", function="unsweptOf", arguments=(account,)),
            Expectation(what=what, values=(amount,), code="skewed_split", account=account),
        )
    for key, lane in books.lanes.items():
        yield (
            Question(contract="Escrow", function="laneOf", arguments=(key,)),
            Expectation(what=f"total and paid of lane {show(key)}", values=(lane.accepted, lane.paid), lane=key),
        )
    for key, amount in books.compensated.items():
        yield (
            Question(contract="Court", function="compensatedOn", arguments=(key,)),
            Expectation(what=f"what was given back on lane {show(key)}", values=(amount,), lane=key),
        )
    pot = {"paid": books.pot.paid, "burned": books.pot.burned, "bonds": books.bonds_of("Rewards"),
           "lastFinal": books.pot.last_final}  # fmt: skip
    for function, amount in pot.items():
        yield (
            Question(contract="Rewards", function=function),
            Expectation(what=f"{function} of the pot of rewards", values=(amount,), account=books.contracts.rewards),
        )
    for account, amount in books.pot.claimed.items():
        yield (
            Question(contract="Rewards", function="claimedBy", arguments=(account,)),
            Expectation(what=f"the rewards of {show(account)}", values=(amount,), account=account),
        )


def _show(values: tuple[int, ...]) -> str:
    return " / ".join(str(value) for value in values) + " nano"
