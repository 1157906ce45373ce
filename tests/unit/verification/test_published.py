"""What counts for a provider's quality, and what doesn't."""

from __future__ import annotations

from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Outcome, Verdict
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.verification.published import CaseSpan, Draw, count_epoch, counts, quality_entries
from steelyard.verification.quality import Epoch, Record
from steelyard.verification.selection import Standing, check_rate_ppb, is_selected

PROVIDER, SERVICE, ME, OTHER = b"\x01" * 20, b"\x02" * 32, b"\x03" * 20, b"\x04" * 20
PAIR = (PROVIDER, SERVICE)
SECRET = b"\x07" * 32
STAKES = {ME: 100, OTHER: 100}
KNOWN = Draw(SECRET, STAKES, {PAIR: Standing(verdicts=60)})


def _drawn(rate_ppb: int, start: int = 0) -> bytes:
    number = start
    while not is_selected(SECRET, keccak(number.to_bytes(32, "big")), rate_ppb):
        number += 1
    return keccak(number.to_bytes(32, "big"))


def _item(receipt: bytes, outcome: Outcome = Outcome.PASS, selected_by: str = "rate") -> PublishedVerdict:
    verdict = Verdict(ME, receipt, int(outcome), bytes(32), 3)
    return PublishedVerdict(verdict, b"", PROVIDER, SERVICE, b"\x05" * 20, selected_by, "", 0, 64)


def test_verdict_counts_only_where_the_revealed_secret_drew_its_receipt() -> None:
    """Another receipt, no revealed secret, no stake, or a boost without a FAIL before: none of them counts."""
    rate = check_rate_ppb(100, 200)
    drawn = _drawn(rate)
    assert counts(ME, _item(drawn), KNOWN)
    assert not counts(ME, _item(keccak(b"another")), KNOWN)
    assert not counts(ME, _item(drawn), Draw(None, STAKES, KNOWN.standings))
    assert not counts(OTHER, _item(drawn), Draw(SECRET, {ME: 100}, KNOWN.standings))
    assert not counts(ME, _item(drawn, selected_by="boost"), KNOWN)
    assert counts(ME, _item(drawn, selected_by="boost"), Draw(SECRET, STAKES, {PAIR: Standing(has_failed=True)}))


def test_newcomers_checks_count_while_it_is_one() -> None:
    """Below 50 verdicts before the epoch, and not afterwards."""
    item = _item(keccak(b"first"), selected_by="newcomer")
    assert counts(ME, item, Draw(None, STAKES, {}))
    assert not counts(ME, item, KNOWN)


def test_epoch_counts_each_receipt_once_and_the_worse_verdict_of_two() -> None:
    """A FAIL beside a PASS counts as the FAIL; what counted in an earlier epoch does not again; ABSTAIN is nothing."""
    rate = check_rate_ppb(100, 200)
    first = _drawn(rate)
    new = Draw(SECRET, STAKES, {})
    seen: set[bytes] = set()
    posts = [
        (ME, _item(first), KNOWN),
        (ME, _item(first, Outcome.FAIL, "newcomer"), new),
        (ME, _item(keccak(b"a"), Outcome.ABSTAIN), KNOWN),
        (ME, _item(keccak(b"b"), Outcome.PASS, "newcomer"), new),
        (ME, _item(keccak(b"c"), Outcome.ABSTAIN, "probe"), KNOWN),
        (ME, _item(keccak(b"d"), Outcome.FAIL, "probe"), KNOWN),
    ]
    expected = {PAIR: Epoch(passes=1, fails=1, probes_answered=1, probes_failed=1)}
    assert count_epoch(posts, seen) == expected
    assert count_epoch(posts[::-1], set()) == expected
    assert count_epoch(posts, seen) == {}


def test_case_bars_from_its_opening_until_it_is_dismissed_or_for_ever() -> None:
    """Open: barred. Acquitted or lapsed: free again. Convicted: never again."""
    case = CaseSpan(PAIR, opened_s=10)
    assert [case.bars(at) for at in (9, 10, 11, 99)] == [False, False, True, True]
    acquitted = CaseSpan(PAIR, 10, 20)
    assert [acquitted.bars(at) for at in (15, 20, 21)] == [True, True, False]
    assert CaseSpan(PAIR, 10, 20, is_upheld=True).bars(10**9)


def test_entries_are_published_in_order_with_the_law_s_quality() -> None:
    """A newcomer's 5 %, a barred one's zero."""
    records = {(b"\x09" * 20, SERVICE): Record(is_barred=True), PAIR: Record()}
    assert [(entry.pair[0], entry.quality_ppm) for entry in quality_entries(records)] == [
        (PROVIDER, 50_000),
        (b"\x09" * 20, 0),
    ]
