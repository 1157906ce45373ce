"""The door for kinds of work: what a plug-in is, what it is given, and what it gives back.

1. A kind is one class under the entry point group `steelyard.services`; the built-ins are no different from a
   stranger's.
2. An instance serves one manifest. `parse`, `quote` and `compare` are pure and work with the manifest alone, on a
   gateway that has no engine installed; only `prepare`, `run` and `replay` need the engine.
3. A kind knows no money, no chain and no gateway. It hears a request, a seed and a call id, and answers with chunks.
4. `parse` refuses whatever it would not honour, naming the field: nothing that a caller set is swallowed in silence.
5. The node gets the same body bytes that the gateway hashed, and parses them again.

Law: docs/spec/services.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.messages import FinishReason, Grade
from steelyard.services.manifest import Manifest, decode_manifest, encode_manifest, manifest_digest

if TYPE_CHECKING:
    from steelyard.engines.port import Engine, EngineInfo

__all__ = [
    "Check",
    "Chunk",
    "Comparison",
    "Context",
    "ContinuingService",
    "FinishReason",
    "Grade",
    "Manifest",
    "Prefix",
    "Progress",
    "QuickService",
    "Quote",
    "Request",
    "Result",
    "Score",
    "Service",
    "ServiceClass",
    "decode_manifest",
    "decode_prefix",
    "encode_manifest",
    "encode_prefix",
    "manifest_digest",
]

Check = Literal["exact", "statistical", "proof", "consensus", "challenge"]

Progress = Callable[[str, int, int], None]
"""Called with what is being prepared, how much of it is done and how much there is (bytes; 0 when unknown)."""


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A caller's request after `parse`: what the gateway needs of it, and the kind's own typed body in `payload`.

    Attributes:
        api: the API it came by, e.g. ``chat.completions``.
        model: the model (service name or alias) as the caller wrote it.
        stream, include_usage: the caller wants server-sent events, and usage in the last one.
        seed: the caller's seed as an unsigned 64-bit number, or None: then the gateway draws one.
        count: how many items are asked for (embeddings: inputs, whose vectors are equal parts of the content; rpc:
            requests in a batch; else 1).
        encoding: how the caller wants binary items: ``float`` or ``base64``.
        input_bytes: UTF-8 bytes of everything that becomes input.
        prefix: what a conversation keeps from turn to turn, for sending it where its cache is warm; b"" if nothing.
        payload: the kind's own, opaque to everyone else.
    """

    api: str
    model: str
    stream: bool = False
    include_usage: bool = False
    seed: int | None = None
    count: int = 1
    encoding: str = "float"
    input_bytes: int = 0
    prefix: bytes = b""
    payload: Any = None


class Quote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The most units that a request can cost; a receipt above either is refused."""

    max_units_in: int
    max_units_out: int


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A piece of an answer, with the units that it cost.

    Attributes:
        content: what `response_hash` covers, joined over all chunks. Text is UTF-8 and never cut inside a character.
        units_in: input units that this chunk cost; an answer in text carries them all in its first chunk, if it knows
        them. units_out: output units that this chunk cost; a chunk may cost units and show nothing (text held back,
        end of text). detail: a JSON object of the kind's own, e.g. OpenAI's ``logprobs``; b"" if none. Not covered by
        `response_hash`,
            so nothing that a caller acts upon may be in it alone: tool calls are in `content` as well.
        finish: set on the last chunk and on no other. An answer without it was cut.
        trail: of a kind that continues answers, what another machine needs beside the content to go on after this
            chunk (chat: the tokens); never shown to a client.
    """

    content: bytes
    units_in: int = 0
    units_out: int = 0
    detail: bytes = b""
    finish: FinishReason | None = None
    trail: bytes = b""


class Prefix(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The part of an answer that another machine made and a client was shown: what an order continues from.

    Attributes:
        content, units_out, trail: of its chunks, joined and summed. Untrusted: whoever made it may have lied.
    """

    content: bytes
    units_out: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    trail: bytes


_decode_prefix = msgspec.msgpack.Decoder(Prefix).decode


def encode_prefix(prefix: Prefix) -> bytes:
    """Return the bytes that travel with an order, and whose salted hash is its `prefix_hash`."""
    return msgspec.msgpack.encode(prefix)


def decode_prefix(data: bytes) -> Prefix:
    """Return what an order continues from (untrusted bytes); raises BadMessage."""
    try:
        return _decode_prefix(data)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"a prefix of {len(data)} bytes is malformed: {error}") from error


class Context:
    """What a run is told beside its request, and where it leaves its trace.

    Attributes:
        call_id: 16 bytes, for logs and for naming an upstream's request.
        seed: the order's sampler seed, unsigned 64-bit.
        trace: rows of evidence, appended as the answer is made; `Service.evidence` turns them into the evidence blob.
            They stay with the provider: only their hash goes into the receipt.
        prefix: what to continue from (`decode_prefix`); b"" for an answer from its beginning. It is given to a
            `ContinuingService` alone.
    """

    __slots__ = ("call_id", "prefix", "seed", "trace")

    def __init__(self, call_id: bytes = b"\x00" * 16, seed: int = 0, prefix: bytes = b"") -> None:
        self.call_id = call_id
        self.seed = seed
        self.prefix = prefix
        self.trace = bytearray()


class Result(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A whole answer: the joined content, the summed units and how it ended. `trace` is empty everywhere but at its
    maker.
    """

    content: bytes
    units_in: int
    units_out: int
    finish: FinishReason
    trace: bytes = b""


class Score(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How one position of an answer compares; what statistics are made of.

    Attributes:
        is_match: it is exactly what the replay would have given.
        margin: how far it is from that: nats by which a token missed being chosen (0 to 16); 1 - cosine of a vector.
        gap: how far what is said of it is from the replay: nats between log-probabilities (0 to 8); of a vector the
            greatest difference of a number, in units of 2^-24.
        entropy, lead: of the replay's own candidates, for strata: nats of the model's distribution over them, and how
            far the choice was ahead of the next one (`protocol.sampler.judge`); 0 where there are no candidates.
    """

    is_match: bool
    margin: float
    gap: float
    entropy: float = 0.0
    lead: float = 0.0


class Comparison(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a claim lies from its replay.

    Attributes:
        is_wellformed: the claim can be read and spells the result; when False, `reason` says what is wrong with it.
        distance: 0.0 means equal; its scale is the kind's own and is calibrated per manifest.
        positions: how many positions (tokens, vectors, answers) were compared.
        reason: one sentence for a person; empty when nothing is remarkable.
        code: the breach's stable name where the claim is not well formed; empty otherwise.
        scores: one for each position.
    """

    is_wellformed: bool
    distance: float
    positions: int
    reason: str = ""
    code: str = ""
    scores: tuple[Score, ...] = ()


class Service(Protocol):
    """One service on this machine: a kind, bound to a manifest and, on a node, to an engine."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def grade(self) -> Grade:
        """The highest grade of check that this manifest allows."""

    def parse(self, api: str, body: bytes) -> Request:
        """Return the validated request; pure.

        Raises:
            BadRequest: malformed, out of range, or set and not honoured; `param` names the field.
        """

    def quote(self, request: Request) -> Quote:
        """Return the most units that this request can cost; pure, and the same on gateway and node."""

    def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        """Do the work. Closing the generator or cancelling its task stops the engine before its next token.

        Raises:
            BadRequest: only the engine could tell, e.g. the prompt is longer than the context.
            Unavailable: the engine failed or went away; what was sent before stays billable.
        """

    def evidence(self, request: Request, result: Result) -> bytes:
        """Return the blob whose root goes into the receipt, from a result that still has its trace; b"" without one.

        It is not asked where `run` left no trace: such an answer is checked by its content alone.
        """

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        """Return this machine's own evidence for the same request, seed and result, following the claimed steps.

        Raises:
            BadMessage: the claim breaks a rule that honest ones keep; `code` names it. This is the provider's fault
                if the claim is what its receipt commits to.
            Unavailable, BadRequest, ConfigError: this machine's own lack; it says nothing of the provider. So does
                the code `not_replayable` of an `Unavailable`: what was asked has no one answer.
        """

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        """Return how far claimed evidence (untrusted) lies from a replay; pure, never raises on bad claims.

        Raises:
            BadMessage: the replay itself, which may have been bought, is malformed.
        """

    async def prepare(self, progress: Progress) -> None:
        """Load what `run` needs; safe to call twice.

        Raises:
            ConfigError: the engine is missing or does not match the manifest.
        """

    async def aclose(self) -> None:
        """Release what this service holds; engines are closed by whoever opened them."""


class QuickService(Service, Protocol):
    """A service that may know its answer without waiting, e.g. because it has no engine; `answer_now` is optional."""

    def answer_now(self, request: Request, context: Context) -> Chunk | None:
        """Return at once, as one chunk with its finish reason, exactly what `run` gives in all; None: use `run`.

        It runs on the node's event loop, so it takes microseconds, and waits for nothing.

        Raises:
            What `run` raises.
        """


class ContinuingService(Service, Protocol):
    """A service that can go on from a part of an answer that another provider made; both members are optional.

    With `Context.prefix` set, `run` yields what follows the prefix, as if there had been no seam: the same seed, limits
    and stop sequences. It costs the input, the prefix among it, and the output that is new. `evidence` and `replay` are
    of the new part alone, `replay` under the same prefix.
    """

    can_continue: bool

    def quote_rest(self, request: Request, prefix: Prefix) -> Quote | None:
        """Return the most units that the rest of an answer can cost, or None: this prefix can't be continued; pure."""


class ServiceClass(Protocol):
    """A kind: what an entry point of `steelyard.services` must name.

    `apis` are the APIs it answers (`chat.completions`, `completions`, `embeddings`, or a name of its own); `unit` is
    what it counts; `needs_engine` says whether the wiring must hand it one.
    """

    kind: str
    unit: str
    check: Check
    apis: frozenset[str]
    needs_engine: bool

    def __call__(
        self, manifest: Manifest, *, engine: Engine | None = None, options: Mapping[str, str] | None = None
    ) -> Service: ...

    def describe(self, name: str, info: EngineInfo | None = None, *, owned_by: str = "steelyard") -> Manifest:
        """Return the manifest of a new service of this kind under a name, on an engine of which `info` tells."""
