"""One sequence in one slot of llama.cpp, stepped token by token.

1. The decoder takes a prompt in pieces, so that cancelling waits for a piece and not for a prompt.
2. A closed session leaves its cache behind, for a prompt that begins alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steelyard.engines.llama_decoder import LlamaDecoder
from steelyard.engines.llama_slots import Slot
from steelyard.engines.port import Candidates, check_tokens
from steelyard.errors import BadRequest, Fault


class LlamaSession:
    """A `Session` on a slot that nobody else uses until `aclose`."""

    def __init__(
        self,
        decoder: LlamaDecoder,
        slot: Slot,
        tokens: Sequence[int],
        limits: tuple[int, int],
        give_back: Callable[[Slot], None],
    ) -> None:
        """Begin on a prompt, of which the slot's cache holds the first tokens already.

        `limits` are the tokens that the context holds and those that the vocabulary has; `give_back` takes the slot
        again.
        """
        self._decoder = decoder
        self._slot = slot
        self._tokens = list(tokens)
        self._context_tokens, self._vocabulary_size = limits
        self._give_back = give_back
        self._is_open = True
        self.prompt_tokens = len(tokens)

    @property
    def room(self) -> int:
        return self._context_tokens - len(self._tokens)

    async def candidates(self) -> Candidates:
        if not self._is_open:
            raise Fault("a closed session was stepped")
        if self.room < 0:
            raise BadRequest(
                f"prompt and answer have {len(self._tokens)} tokens, this model takes {self._context_tokens}",
                code="context_length_exceeded",
                param="messages",
            )
        check_tokens(self._tokens[len(self._slot.held) :], self._vocabulary_size)
        return await self._decoder.step(self._slot, self._tokens)

    def push(self, token_id: int) -> None:
        self._tokens.append(token_id)

    async def aclose(self) -> None:
        """Give the slot back; safe to call twice, and from a task that is being cancelled."""
        if self._is_open:
            self._is_open = False
            self._decoder.leave(self._slot, lambda: self._give_back(self._slot))
