"""The books: single events that can't be are findings, and whatever is odd never raises."""

from __future__ import annotations

from typing import Any

from steelyard.audit.books import Contracts, Entry
from steelyard.audit.rebuild import rebuild
from steelyard.audit.views import compare_views, list_expectations

CONTRACTS = Contracts(
    yard=b"\xa1" * 20, registry=b"\xa2" * 20, escrow=b"\xa3" * 20, court=b"\xa4" * 20, rewards=b"\xa5" * 20
)
ANN, BOB, ZERO = b"\x01" * 20, b"\x02" * 20, b"\x00" * 20


def entry(contract: str, event: str, **values: Any) -> Entry:
    """Return one event of one and the same transaction."""
    return Entry(contract=contract, name=event, values=values, block=1, tx=b"\x01" * 32)


def transfer(sender: bytes, to: bytes, value: int) -> Entry:
    """Return a token transfer."""
    return entry("Yard", "Transfer", **{"from": sender, "to": to, "value": value})


def codes(*entries: Entry) -> list[str]:
    """Return the codes that a history gives."""
    return [finding.code for finding in rebuild(CONTRACTS, entries)[1]]


def test_rebuild_of_nothing_is_nothing() -> None:
    """No event, no balance, no finding."""
    books, findings = rebuild(CONTRACTS, [])
    assert (sum(books.totals().values()), findings) == (0, [])


def test_transfer_of_more_than_held_is_found() -> None:
    """A wallet below zero is named, with its account."""
    assert codes(transfer(ZERO, ANN, 5), transfer(ANN, BOB, 6)) == ["negative_wallet"]


def test_mint_and_burn_are_counted_apart() -> None:
    """Minted, burned and held add up."""
    books, findings = rebuild(CONTRACTS, [transfer(ZERO, ANN, 5), transfer(ANN, ZERO, 2)])
    assert (books.minted, books.burned, books.totals()["wallets"], findings) == (5, 2, 3, [])


def test_event_without_tokens_leaves_the_vault_short() -> None:
    """A deposit that no tokens came with is found once, and not again later."""
    assert codes(
        entry("Escrow", "Deposited", gateway=ANN, payer=ANN, amount=3),
        Entry(contract="Yard", name="Approval", values={}, tx=b"\x02" * 32),
    ) == ["vault_short"]


def test_tokens_without_event_are_nobodys() -> None:
    """What is sent to a vault unasked is stray: no finding, and in no one's balance."""
    books, findings = rebuild(CONTRACTS, [transfer(ZERO, ANN, 5), transfer(ANN, CONTRACTS.escrow, 5)])
    assert (findings, books.totals()["stray"]) == ([], 5)


def test_unbonding_of_more_than_staked_is_found() -> None:
    """More stake can't leave than is there."""
    staked = entry("Registry", "Staked", account=ANN, role=1, payer=ANN, amount=3)
    left = entry("Registry", "UnbondStarted", account=ANN, role=1, amount=4, readyAt=1)
    assert "stake_overdrawn" in codes(transfer(ZERO, CONTRACTS.registry, 3), staked, left)


def test_redemption_of_unknown_lane_is_found() -> None:
    """A lane that was never opened can't be paid; one whose key isn't its fields' is no lane."""
    paid = entry("Escrow", "LaneRedeemed", lane=b"\x07" * 32, cumulative=1, paid=1, count=1, head=b"\x08" * 32)
    assert codes(paid) == ["unknown_lane"]
    opened = entry(
        "Escrow", "LaneOpened", lane=b"\x07" * 32, gateway=ANN, provider=BOB, serviceId=b"\x09" * 32, laneId=1
    )
    assert codes(opened) == ["unknown_lane"]


def test_malformed_event_is_found_and_never_raises() -> None:
    """A missing field, a wrong type or a split that isn't one is a finding."""
    assert codes(entry("Yard", "Transfer")) == ["malformed_event"]
    assert codes(entry("Escrow", "Deposited", gateway=ANN, payer=ANN, amount="3")) == ["malformed_event"]
    registered = entry(
        "Registry", "ServiceRegistered", serviceId=b"\x09" * 32, builder=ANN, dataPot=ANN, name="s", kind="k",
        manifest=b"\x01" * 32, splitBps=(1, 2, 3, 4),
    )  # fmt: skip
    assert codes(registered) == ["malformed_event"]


def test_views_that_differ_are_found_with_both_values() -> None:
    """The contract's own answer is compared, further values of it are not."""
    books, _ = rebuild(CONTRACTS, [transfer(ZERO, ANN, 5)])
    expectations = list_expectations(books)
    answers = {question: (*expected.values, 99) for question, expected in expectations.items()}
    assert compare_views(expectations, answers) == []
    found = compare_views(expectations, dict.fromkeys(answers, (6,)))
    assert {finding.code for finding in found} == {"supply_differs", "view_differs"}
    (wallet,) = (finding for finding in found if finding.account == ANN)
    assert "5 nano" in wallet.message
    assert "6 nano" in wallet.message
