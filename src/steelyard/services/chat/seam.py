"""The seam of an answer that another machine began: its tokens, its text so far, and whether anything is left to say.

1. A prefix carries its tokens, so that nothing is guessed: they must spell what the client was shown, and be as many as
   were counted. Text that was made and not shown (half a character, the beginning of a stop sequence) is theirs too.
2. The next token stands at the position after them. What they ended already is over: nothing more is sampled.
3. Maker and checker open a seam by this one rule.

Law: docs/spec/kinds/chat.md, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steelyard.engines.port import StepEngine
from steelyard.errors import BadMessage, BadRequest
from steelyard.protocol.sampler import SAMPLER
from steelyard.services.manifest import Manifest
from steelyard.services.port import Context, FinishReason, Prefix, Quote, Request, decode_prefix
from steelyard.services.text import TextAssembler
from steelyard.services.text_requests import TEXT_APIS, TextPayload

TOKEN_BYTES = 4


@dataclass(slots=True)
class Seam:
    """Where an answer goes on.

    Attributes:
        tokens: of the prefix, after the prompt's. text: the assembler, as it was after them.
        spans: where each token's text lies, in characters of the answer.
        finish: set where the prefix is the whole answer already.
    """

    tokens: list[int]
    text: TextAssembler
    spans: list[tuple[int, int]] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def hidden(self) -> int:
        """How many tokens at the end have text that was not shown yet."""
        return sum(end > self.text.shown for _, end in self.spans)


def encode_token(token_id: int) -> bytes:
    """Return a token as it stands in a trail."""
    return token_id.to_bytes(TOKEN_BYTES, "big")


def quote_rest(manifest: Manifest, request: Request, quote: Quote, prefix: Prefix) -> Quote | None:
    """Return the most units that the rest of an answer costs, or None if it can't be continued.

    Args:
        quote: of the whole answer.
    """
    if manifest.sampler != SAMPLER or request.api not in TEXT_APIS:
        return None
    if len(prefix.trail) != TOKEN_BYTES * prefix.units_out or prefix.units_out > quote.max_units_out:
        return None
    units_in = min(quote.max_units_in + prefix.units_out, manifest.context_tokens)
    return Quote(units_in, quote.max_units_out - prefix.units_out)


def open_seam(
    engine: StepEngine, payload: TextPayload, context: Context, prompt: Sequence[int], max_tokens: int
) -> Seam:
    """Return where the answer to a prompt goes on after `context.prefix`; at its beginning, if that is empty.

    Args:
        max_tokens: of the whole answer.

    Raises:
        BadRequest: the prefix does not fit the model or the text that was shown; it can't be continued.
    """
    seam = Seam([], TextAssembler(payload.stops))
    if not context.prefix:
        return seam
    try:
        prefix = decode_prefix(context.prefix)
    except BadMessage as error:
        raise _unfit(error.message) from error
    trail = prefix.trail
    if len(trail) != TOKEN_BYTES * prefix.units_out or prefix.units_out > max_tokens:
        raise _unfit(f"{prefix.units_out} tokens are counted, {len(trail) // TOKEN_BYTES} named, {max_tokens} allowed")
    shown: list[str] = []
    for at in range(0, len(trail), TOKEN_BYTES):
        token_id = int.from_bytes(trail[at : at + TOKEN_BYTES], "big")
        if seam.finish is not None or not engine.has_token(token_id):
            raise _unfit(f"token {token_id} can't follow")
        seam.tokens.append(token_id)
        start = seam.text.total
        if engine.is_end(token_id):
            seam.finish = FinishReason.STOP
        else:
            shown.append(seam.text.push(engine.token_bytes(token_id)))
            if seam.text.is_stopped:
                seam.finish = FinishReason.STOP
        seam.spans.append((start, seam.text.total))
    is_full = len(seam.tokens) >= max_tokens or len(prompt) + len(seam.tokens) >= engine.info.context_tokens
    if seam.finish is None and is_full:
        seam.finish = FinishReason.LENGTH
    if seam.finish is not None:
        shown.append(seam.text.finish())
    if "".join(shown).encode() != prefix.content:
        raise _unfit(f"its tokens do not spell the {len(prefix.content)} bytes that were shown")
    return seam


def _unfit(why: str) -> BadRequest:
    return BadRequest(f"the answer can't be continued: {why}", code="bad_prefix")
