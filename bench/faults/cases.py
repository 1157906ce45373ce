"""The table: every fault, for every kind, with a healthy second provider and without, and what must come of it.

What is stated here is stated before anything runs: what the client sees, what the key is billed, whose calls have a
receipt, and what the gateway counts. Four rules make nearly all of it:

before    nothing right ever comes. Another provider is asked: the client sees a whole answer, and pays for it alone.
          Without one: a clear error, and nothing is billed.
middle    a stream fails once part of it was shown. Another provider goes on: one whole answer, billed once. Without
          one: an error in the stream and no `[DONE]`, billed for what was shown. What doesn't stream is as before.
end       everything comes, and the receipt is bad or missing. As the middle, and nobody is paid for it.
harmless  the answer is right in spite of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from client import CHAT_STREAM, CHAT_WHOLE, EMBEDDINGS, KINDS, RPC
from provider import BALANCES, EMBEDDING_TOKENS, SHOWN, TOKENS, TOKENS_IN

BEFORE, MIDDLE, END, HARMLESS = "before", "middle", "end", "harmless"
UPSTREAM, WIRE, CLOCK = "upstream", "wire", "clock"

COMPUTE_UNITS = 20
WHOLE_NANO = {
    CHAT_STREAM: TOKENS_IN + 2 * len(TOKENS),
    CHAT_WHOLE: TOKENS_IN + 2 * len(TOKENS),
    EMBEDDINGS: EMBEDDING_TOKENS,
    RPC: COMPUTE_UNITS * len(BALANCES),
}
"""What a whole answer costs: one nano a unit in, two a unit out."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name, text: what goes wrong. where: at a node's upstream, on our own wire, or in a node's clock.
        stage: which rule holds. code: what the gateway calls it. event: how it records a peer that broke the rules.
        is_slow: nothing comes, so that a stream is asked of a second provider before the first one failed.
        shown: tokens of a stream that are shown before it.
    """

    name: str
    text: str
    where: str
    stage: str
    code: str = "engine_error"
    event: str = ""
    is_slow: bool = False
    shown: int = SHOWN


FAULTS = (
    Fault("refused", "connection refused", UPSTREAM, BEFORE),
    Fault("tls", "TLS handshake that gets no answer", UPSTREAM, BEFORE, is_slow=True),
    Fault("429-retry-after", "429 with Retry-After: 2", UPSTREAM, BEFORE, code="busy"),
    Fault("429", "429 without Retry-After", UPSTREAM, BEFORE, code="busy"),
    Fault("500", "500", UPSTREAM, BEFORE),
    Fault("503", "503", UPSTREAM, BEFORE),
    Fault("hang", "no byte at all", UPSTREAM, BEFORE, is_slow=True),
    Fault("slow-headers", "headers that trickle, a byte each 0.1 s", UPSTREAM, BEFORE, is_slow=True),
    Fault("wrong-type", "200 with a page of HTML", UPSTREAM, BEFORE),
    Fault("empty", "200 with an empty body", UPSTREAM, BEFORE),
    Fault("error-in-200", "an error inside a 200 (in a stream: in the middle, then [DONE])", UPSTREAM, MIDDLE),
    Fault("stall", "silence in the middle", UPSTREAM, MIDDLE, code="stalled"),
    Fault("cut", "connection reset in the middle", UPSTREAM, MIDDLE),
    Fault("ended-early", "a body that ends in the middle, well-formed for HTTP", UPSTREAM, MIDDLE),
    Fault("cut-in-character", "the same inside a character of four bytes", UPSTREAM, MIDDLE, shown=SHOWN + 1),
    Fault("malformed", "a chunk that is no JSON", UPSTREAM, MIDDLE),
    Fault("duplicate", "a chunk, vector or answer that comes twice", UPSTREAM, MIDDLE, shown=len(TOKENS) + 1),
    Fault("reordered", "the end before the last text; vectors or answers reversed", UPSTREAM, HARMLESS),
    Fault("oversized", "a line of 96 MiB", UPSTREAM, MIDDLE),
    Fault("deadline", "work that is not done by the order's deadline", UPSTREAM, BEFORE, code="deadline", is_slow=True),
    Fault("clock-ahead", "a node whose clock is an hour ahead", CLOCK, BEFORE, code="clock_off"),
    Fault("clock-behind", "a node whose clock is an hour behind", CLOCK, BEFORE, code="bad_order"),
    Fault("wrong-cost", "a receipt that bills a nano too much", WIRE, END, "bad_receipt", "bad_total"),
    Fault("wrong-content", "a receipt for another answer", WIRE, END, "bad_receipt", "bad_message"),
    Fault("wrong-order", "a receipt for another order", WIRE, END, "bad_receipt", "bad_message"),
    Fault("wrong-times", "a receipt with times outside the call", WIRE, END, "bad_receipt", "clock_off"),
    Fault("no-receipt", "everything but the receipt", WIRE, END, "stalled"),
    Fault("piece-twice", "a piece that is sent twice", WIRE, END, "bad_receipt", "bad_message"),
    Fault("pieces-swapped", "two pieces in the wrong order", WIRE, END, "bad_receipt", "bad_message"),
    Fault("oversized-frame", "a frame over the link's bound", WIRE, END, "link_lost", "oversize"),
    Fault("link-lost", "a link that is cut", WIRE, END, "link_lost"),
)

SPOILT = frozenset({"duplicate", "piece-twice", "pieces-swapped"})
"""What was shown of a stream is no beginning of the right answer: nobody can go on from it."""


@dataclass(frozen=True)
class Expected:
    """What must come of a case; of `receipts` without a status any will do."""

    view: str
    code: str
    billed_nano: int
    receipts: tuple[str, ...]
    counted: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One fault, of one kind, with a healthy second provider or without."""

    fault: str
    kind: str
    has_second: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.fault}, {self.kind}, {'with a second provider' if self.has_second else 'alone'}"


def expect(fault: Fault, kind: str, *, has_second: bool) -> Expected:
    """Return what must come of a case, by the rules of this page."""
    is_stream = kind == CHAT_STREAM
    if fault.stage == HARMLESS:
        return Expected("whole", "", WHOLE_NANO[kind], ("bad done",), ())
    whole = Expected("whole", "", WHOLE_NANO[kind], ("good done",), ())
    if is_stream and fault.stage in (MIDDLE, END):
        found = _stream_breaks(fault, whole, has_second=has_second)
    elif fault.name in ("deadline", "no-receipt") and not (is_stream and has_second):
        found = Expected("error", "deadline", 0, (), ("errors deadline=1",))  # its time is up, elsewhere too
    elif has_second and is_stream and fault.is_slow:
        found = replace(whole, counted=("rescues first_byte=1",))
    else:
        code = "engine_error" if fault.stage == MIDDLE else fault.code
        tried = f"retries {code}=1"
        refused = Expected("error", "no_provider", 0, (), (tried, "errors no_provider=1"))
        found = replace(whole, counted=(tried,)) if has_second else refused
    if fault.event:
        found = replace(found, counted=(*found.counted, f"peer_events {fault.event}=1"))
    return found


def _stream_breaks(fault: Fault, whole: Expected, *, has_second: bool) -> Expected:
    is_billed = fault.stage == MIDDLE  # of a leg without a good receipt the client pays nothing, if nobody goes on
    shown_nano = 2 * fault.shown if is_billed else 0
    bad = ("bad cut",) if is_billed else ()
    code = fault.code
    rescued = f"rescues {code}=1"
    if not has_second:
        return Expected("cut", "provider_lost", shown_nano, bad, ("errors provider_lost=1",))
    if fault.name in SPOILT:
        counted = (rescued, "errors provider_lost=1")
        return Expected("cut", "provider_lost", shown_nano, (*bad, "good"), counted)
    return replace(whole, receipts=(*bad, "good done"), counted=(rescued,))


def list_cases(faults: tuple[Fault, ...] = FAULTS, kinds: tuple[str, ...] = KINDS) -> Iterator[tuple[Case, Expected]]:
    """Yield every case with what must come of it."""
    for fault in faults:
        for kind in kinds:
            for has_second in (True, False):
                yield Case(fault.name, kind, has_second), expect(fault, kind, has_second=has_second)
