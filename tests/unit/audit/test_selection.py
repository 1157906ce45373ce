"""The selection audit: what secrets selected is compared with what validators published, and nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.audit_world import GATEWAYS, PROVIDERS, World

from steelyard.audit.books import LaneBooks
from steelyard.audit.calls import LaneProof
from steelyard.audit.findings import Finding
from steelyard.audit.selection import SelectionFacts, SelectionRow, check_selections, selection_findings
from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Lane, Outcome, Receipt, Verdict
from steelyard.protocol.verdicts_blob import PublishedVerdict, VerdictsBlob
from steelyard.verification.parameters import CheckParameters
from steelyard.verification.selection import Standing, is_long, select_calls
from steelyard.verification.standing import PostedVerdicts, standings_at

EPOCH_S = 60
EPOCHS = (100, 101)
ONE, TWO = b"\x0a" * 20, b"\x0b" * 20
STAKES = {ONE: 300, TWO: 700}
SERVICE = b"\x51" * 32
GATEWAY, PROVIDER = GATEWAYS[0].account, PROVIDERS[0].account
PARAMETERS = CheckParameters(rate_ppb=600_000_000, newcomer_calls=10)
SECRETS = {(who, epoch): keccak(who + bytes([epoch])) for who in STAKES for epoch in EPOCHS}
Verdicts = dict[tuple[bytes, int], list[PublishedVerdict]]


def lane_of_calls(seed: int = 1, calls: int = 60) -> LaneProof:
    """Return a proven lane whose calls end in two epochs, not all of them in order, long and short ones."""
    lane, world, random = Lane(GATEWAY, PROVIDER, SERVICE, 1), World(seed), Random(seed)
    proof = LaneProof(LaneBooks(lane.key, GATEWAY, PROVIDER, SERVICE, 1))
    for index in range(calls):
        epoch = EPOCHS[0] if index < 25 or index in (27, 28) else EPOCHS[1]
        receipt = world._receipt(world._order(lane))
        values = {name: getattr(receipt, name) for name in receipt.__struct_fields__}
        values |= {"finished_ms": epoch * EPOCH_S * 1_000 + index, "units_out": random.choice((5, 64, 400))}
        proof.receipts.append(Receipt(**values))
    return proof


def honest(proof: LaneProof, standing: Standing | None = None) -> Verdicts:
    """Return the verdicts that validators reach who read the lane call by call."""
    verdicts: Verdicts = {key: [] for key in SECRETS}
    for validator in STAKES:
        calls, long_calls = dict.fromkeys(EPOCHS, 0), 0
        for receipt in proof.receipts:
            epoch = receipt.finished_ms // (1_000 * EPOCH_S)
            found = select_calls(
                SECRETS[validator, epoch], validator, [receipt], standing or Standing(), STAKES,
                calls_before=calls[epoch], long_calls_before=long_calls, parameters=PARAMETERS,
            )  # fmt: skip
            verdicts[validator, epoch] += [published(validator, epoch, one.receipt, "rate") for one in found]
            calls[epoch] += 1
            long_calls += is_long(receipt, PARAMETERS)
    return verdicts


def published(
    validator: bytes, epoch: int, receipt: bytes, selected_by: str, outcome: Outcome = Outcome.ABSTAIN
) -> PublishedVerdict:
    """Return a verdict as a blob has it."""
    verdict = Verdict(validator, receipt, outcome, b"\x00" * 32, epoch)
    return PublishedVerdict(verdict, b"", PROVIDER, SERVICE, GATEWAY, selected_by, "", 0, 0)


def facts_of(verdicts: Verdicts, **changes: object) -> SelectionFacts:
    """Return facts long after the epochs."""
    facts = SelectionFacts(
        secrets=SECRETS, stakes=dict.fromkeys(EPOCHS, STAKES), posted=(), verdicts=verdicts, unread={},
        epoch_s=EPOCH_S, now_s=200 * EPOCH_S,
    )  # fmt: skip
    return replace(facts, **changes)  # type: ignore[arg-type]


def check(proof: LaneProof, facts: SelectionFacts) -> dict[tuple[bytes, int], SelectionRow]:
    """Return the rows by validator and epoch."""
    return {(row.validator, row.epoch): row for row in check_selections([proof], facts, PARAMETERS)}


def test_selection_of_honest_validators_is_kept() -> None:
    """Whoever reads call by call, as the feed gives them, selects what the audit recomputes lane by lane."""
    proof = lane_of_calls()
    rows = check(proof, facts_of(honest(proof)))
    assert {row.state for row in rows.values()} == {"kept"}
    assert rows.keys() == SECRETS.keys()
    assert sum(row.selected for row in rows.values()) > 20
    assert list(selection_findings(rows.values())) == []


def test_selection_left_out_is_named() -> None:
    """A selected call without a verdict breaks its validator's epoch, and no other."""
    proof = lane_of_calls()
    verdicts = honest(proof)
    gone = verdicts[TWO, 101].pop()
    rows = check(proof, facts_of(verdicts))
    assert rows[TWO, 101].state == "broken"
    assert rows[TWO, 101].unchecked == (gone.verdict.receipt,)
    assert {row.state for key, row in rows.items() if key != (TWO, 101)} == {"kept"}
    (finding,) = selection_findings(rows.values())
    assert (finding.code, finding.severity, finding.account) == ("unchecked_calls", "note", TWO)
    assert gone.verdict.receipt.hex() in finding.message


def test_selection_never_published_is_all_unchecked() -> None:
    """Who reveals a secret and posts nothing has checked nothing."""
    proof = lane_of_calls()
    verdicts = honest(proof)
    count = len(verdicts.pop((ONE, 100)))
    assert len(check(proof, facts_of(verdicts))[ONE, 100].unchecked) == count > 0


def test_verdict_on_a_call_not_selected_is_named_unless_of_a_probe() -> None:
    """Cherry-picked calls show; a probe is a validator's own choice, and counted."""
    proof = lane_of_calls()
    verdicts = honest(proof)
    drawn = {item.verdict.receipt for item in verdicts[ONE, 100]}
    other = next(r.struct_hash() for r in proof.receipts if r.struct_hash() not in drawn)
    verdicts[ONE, 100].append(published(ONE, 100, other, "rate"))
    row = check(proof, facts_of(verdicts))[ONE, 100]
    assert (row.state, row.unselected, row.probes) == ("broken", (other,), 0)
    verdicts[ONE, 100][-1] = published(ONE, 100, other, "probe")
    row = check(proof, facts_of(verdicts))[ONE, 100]
    assert (row.state, row.unselected, row.probes) == ("kept", (), 1)


def test_verdict_on_a_call_not_redeemed_is_unknown() -> None:
    """What no proven lane has can't be judged here."""
    proof = lane_of_calls()
    verdicts = honest(proof)
    verdicts[ONE, 100].append(published(ONE, 100, b"\x99" * 32, "rate"))
    row = check(proof, facts_of(verdicts))[ONE, 100]
    assert (row.state, row.unknown) == ("kept", 1)


def test_selection_with_something_missing_is_not_provable() -> None:
    """A missing blob of verdicts, an unproven lane or a withheld secret: nothing is guessed."""
    proof = lane_of_calls()
    verdicts = honest(proof)
    del verdicts[ONE, 100]
    facts = facts_of(verdicts, unread={(ONE, 100): b"\x0d" * 32})
    rows = check(proof, facts)
    assert {row.state for row in rows.values()} == {"not provable"}  # its verdicts decide who is a newcomer
    (finding,) = selection_findings(rows.values())
    assert (finding.code, finding.cids) == ("missing_verdicts", (b"\x0d" * 32,))
    proof.findings.append(Finding(code="missing_blob", message="", severity="missing"))
    assert {row.state for row in check(proof, facts_of(honest(proof))).values()} == {"not provable"}
    proof.findings.clear()
    known = {key: secret for key, secret in SECRETS.items() if key != (TWO, 100)}
    assert check(proof, facts_of(honest(proof), secrets=known))[TWO, 100].state == "not provable"


def test_selection_of_an_epoch_just_over_is_not_due() -> None:
    """Verdicts are published an epoch after its end."""
    proof = lane_of_calls()
    verdicts = {key: found for key, found in honest(proof).items() if key[1] == 100}
    rows = check(proof, facts_of(verdicts, now_s=102 * EPOCH_S + 5))
    assert {key[1]: row.state for key, row in rows.items()} == {100: "kept", 101: "not due"}


def test_selection_follows_the_standing_when_the_epoch_began() -> None:
    """Verdicts posted before it make nobody a newcomer any more; those after it count for the next."""
    proof = lane_of_calls()
    old = tuple(published(ONE, 90, keccak(bytes([n])), "rate", Outcome.PASS) for n in range(50))
    posted = PostedVerdicts(VerdictsBlob(1, 1, b"", ONE, 90, old), EPOCHS[0] * EPOCH_S - 1)
    verdicts = honest(proof, Standing(verdicts=50))
    rows = check(proof, facts_of(verdicts, posted=(posted,)))
    assert {row.state for row in rows.values()} == {"kept"}
    late = PostedVerdicts(posted.blob, EPOCHS[1] * EPOCH_S)
    rows = check(proof, facts_of(verdicts, posted=(late,)))
    assert "broken" in {row.state for row in rows.values()}


def test_standing_counts_receipts_once_and_fails_of_the_last_epoch() -> None:
    """ABSTAIN is nothing; a FAIL posted in the epoch before boosts the next one alone."""
    blob = VerdictsBlob(
        1, 1, b"", ONE, 90,
        (
            published(ONE, 90, b"\x01" * 32, "rate", Outcome.PASS),
            published(ONE, 90, b"\x01" * 32, "rate", Outcome.FAIL),
            published(ONE, 90, b"\x02" * 32, "rate", Outcome.ABSTAIN),
        ),
    )  # fmt: skip
    posted = PostedVerdicts(blob, 99 * EPOCH_S)
    pair = (PROVIDER, SERVICE)
    assert standings_at([posted], 99, EPOCH_S) == {}
    assert standings_at([posted], 100, EPOCH_S) == {pair: Standing(verdicts=1, has_failed=True)}
    assert standings_at([posted], 101, EPOCH_S) == {pair: Standing(verdicts=1, has_failed=False)}
