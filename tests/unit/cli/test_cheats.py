"""The two cheats of the trust demo: what they make of a weight file, and what their evidence says."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from tests.service_world import LetterEngine

from steelyard.cli.cheats import BackfilledChat, DisguisedEngine, coarsen
from steelyard.engines.port import Candidates
from steelyard.services.chat import ChatService
from steelyard.services.port import Comparison, Context, FinishReason, Result

BODY = json.dumps({"model": "letters", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 48}).encode()
BLOCK = 20


class _Scorer:
    """Steps through an answer, since the little model has no faster way."""

    def __init__(self, engine: LetterEngine) -> None:
        self._engine = engine

    async def score(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Candidates]:
        session = await self._engine.open_session(prompt)
        found = []
        for token in answer:
            found.append(await session.candidates())
            session.push(token)
        await session.aclose()
        return found


def letters(noise: float = 0.0) -> LetterEngine:
    """The little model, or with noise another one of the same name."""
    engine = LetterEngine(noise=noise)
    engine.scorer = _Scorer(engine)
    return engine


def compare(cheat: ChatService) -> Comparison:
    """What an honest validator finds of one of its answers."""

    async def story() -> Comparison:
        context = Context(seed=7)
        request, content, units_in, units_out = cheat.parse("chat.completions", BODY), b"", 0, 0
        finish = FinishReason.ERROR
        async with aclosing(cheat.run(request, context)) as chunks:
            async for chunk in chunks:
                content += chunk.content
                units_in, units_out = units_in + chunk.units_in, units_out + chunk.units_out
                finish = finish if chunk.finish is None else chunk.finish
        trace = bytes(context.trace)
        result = Result(content=content, units_in=units_in, units_out=units_out, finish=finish, trace=trace)
        claimed = cheat.evidence(request, result)
        honest = ChatService(cheat.manifest, engine=letters())
        return honest.compare(result, claimed, await honest.replay(request, result, claimed, Context(seed=7)))

    return asyncio.run(story())


def gguf(blocks: bytes, floats: bytes) -> bytes:
    """A GGUF file with one Q4_1 tensor and one of float32."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, 3)
    for key, value in (
        (b"a.text", struct.pack("<IQ", 8, 2) + b"hi"),
        (b"a.number", struct.pack("<II", 4, 7)),
        (b"a.list", struct.pack("<IIQ", 9, 8, 2) + struct.pack("<Q", 1) + b"x" + struct.pack("<Q", 2) + b"yz"),
    ):
        head += struct.pack("<Q", len(key)) + key + value
    for name, size, kind, offset in ((b"w", len(blocks) // BLOCK * 32, 3, 0), (b"n", len(floats) // 4, 0, 64)):
        head += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, size, kind, offset)
    head += bytes(-len(head) % 32)
    return head + blocks.ljust(64, b"\0") + floats


def test_coarse_weights_keep_four_values_a_block_and_everything_else(tmp_path: Path) -> None:
    """Only the codes of Q4_1 blocks change: each to the nearest of 0, 5, 10 and 15."""
    codes = bytes(range(16))
    block = b"\xaa\xbb\xcc\xdd" + bytes(low | high << 4 for low, high in zip(codes, codes[::-1], strict=True))
    real, floats = tmp_path / "real.gguf", struct.pack("<2f", 0.1, 0.2)
    real.write_bytes(gguf(block * 3, floats))
    before, after = real.read_bytes(), coarsen(real, tmp_path / "made" / "coarse.gguf").read_bytes()
    at = before.index(block)
    assert len(after) == len(before)
    assert after[:at] == before[:at]
    assert after.endswith(floats)
    for start in range(at, at + 3 * BLOCK, BLOCK):
        assert after[start : start + 4] == block[:4]
        for old, new in zip(before[start + 4 : start + BLOCK], after[start + 4 : start + BLOCK], strict=True):
            for shift in (0, 4):
                was, is_now = old >> shift & 15, new >> shift & 15
                assert is_now in (0, 5, 10, 15)
                assert abs(was - is_now) <= 2
    made = (tmp_path / "made" / "coarse.gguf").stat().st_mtime_ns
    assert coarsen(real, tmp_path / "made" / "coarse.gguf").stat().st_mtime_ns == made


def test_coarse_cheat_shows_in_margins_and_in_log_probabilities() -> None:
    """Evidence in good faith of other weights differs from the replay in both."""
    manifest = ChatService.describe("letters", letters().info)
    found = compare(ChatService(manifest, engine=DisguisedEngine(letters(0.5), letters().info)))  # type: ignore[arg-type]
    assert found.is_wellformed
    assert any(not score.is_match for score in found.scores)
    assert any(score.gap > 0.01 for score in found.scores)


def test_backfilled_evidence_shows_in_margins_alone() -> None:
    """Its log-probabilities are the real model's own: a fingerprint sees nothing, the choices do."""
    manifest = ChatService.describe("letters", letters().info)
    found = compare(BackfilledChat(manifest, letters(0.5), letters()))
    assert found.is_wellformed
    assert any(not score.is_match for score in found.scores)
    assert all(score.gap == 0 for score in found.scores)


def test_honest_answer_shows_in_neither() -> None:
    """The same path with the real model on both sides finds nothing."""
    manifest = ChatService.describe("letters", letters().info)
    found = compare(BackfilledChat(manifest, letters(), letters()))
    assert found.distance == 0.0
