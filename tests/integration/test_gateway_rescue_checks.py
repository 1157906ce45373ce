"""An answer made in two legs, from client to check: both halves open by themselves, and honest ones pass."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tests.check_client import open_session
from tests.gateway_world import DOMAIN, World, open_world
from tests.integration.test_gateway_chat_checks import ASK, MODEL, checked_call, real_node, result_of
from tests.service_world import LetterEngine, LetterSession
from tests.verification_world import flat_null

from steelyard.engines.port import Candidates
from steelyard.errors import Unavailable
from steelyard.protocol.call_proof import verify_call
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import FinishReason, Outcome
from steelyard.services.chat import ChatService
from steelyard.validator.checker import Checkable, check_call
from steelyard.validator.gateway_client import ShownCall
from steelyard.validator.replayer import OwnReplayer, replay_body

LEFT = [1]
"""How many sessions still break; shared by all engines of a test."""


class BreakingEngine(LetterEngine):
    """Breaks in the middle of the first answer, on whichever node that is."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__(noise=noise)

    async def open_session(self, tokens: Sequence[int]) -> LetterSession:
        await super().open_session(tokens)
        return BreakingSession(self, tokens)


class BreakingSession(LetterSession):
    """Six tokens, then nothing, while somebody is to break."""

    count = 0

    async def candidates(self) -> Candidates:
        self.count += 1
        await asyncio.sleep(0.005)
        if self.count > 6 and LEFT[0]:
            LEFT[0] -= 1
            raise Unavailable("the engine broke")
        return await super().candidates()


def chat(engine: LetterEngine) -> ChatService:
    """A stepped chat service."""
    return ChatService(ChatService.describe(MODEL, engine.info), engine=engine)


async def ask_in_two_legs(world: World) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Stream one answer whose first provider breaks; return its text, its stamp and the call as it is shown."""
    LEFT[0] = 1
    text, stamp = "", {}
    async with world.client() as client:
        async for event in await client.chat.completions.create(**ASK, stream=True, seed=3):
            text += event.choices[0].delta.content or "" if event.choices else ""
            stamp = getattr(event, "steelyard", None) or stamp
    for _ in range(100):
        _, shown, _ = await world.get("/calls/" + stamp["call_id"])
        if shown["batch"] is not None:
            break
        await asyncio.sleep(0.05)
    return text, stamp, shown


async def judge_leg(world: World, token: str, receipt_id: str, **changes: Any) -> tuple[Outcome, str]:
    """What a validator with its own engine says of one receipt; `changes` are to what the gateway shows."""
    found, evidence = await checked_call(world, token, receipt_id)
    order, receipt, _ = result_of(found)
    call = ShownCall(found["api"], *(base64.b64decode(found[name]) for name in ("body", "content")),
                     bytes.fromhex(found["salt"][2:]), base64.b64decode(found["prefix"]))  # fmt: skip
    call = msgspec.structs.replace(call, **changes)
    service = chat(LetterEngine())
    checkable = Checkable(service, False, OwnReplayer(service, "letters 1"), flat_null(20_000_000))

    async def fetch_call() -> ShownCall:
        return call

    async def fetch_evidence() -> bytes:
        return evidence

    checked = await check_call(order, receipt, checkable, fetch_call, fetch_evidence)
    return checked.judgement.outcome, checked.judgement.reason


def test_both_legs_of_a_rescued_answer_are_checked_by_themselves(tmp_path: Path) -> None:
    """The rest passes under its prefix and position, the cut part doesn't fail, and the client's proof holds."""

    async def story() -> None:
        async with (
            open_world(tmp_path, nodes=0) as world,
            real_node(world, 0, chat(BreakingEngine())),
            real_node(world, 1, chat(BreakingEngine())),
        ):
            token = await open_session(world)
            text, stamp, shown = await ask_in_two_legs(world)
            assert [rescue["reason"] for rescue in stamp["rescues"]] == ["engine_error"]
            (cut,) = shown["attempts"]
            assert cut["finish_reason"] == "error"
            assert await judge_leg(world, token, cut["receipt_id"]) == (Outcome.PASS, "")
            assert await judge_leg(world, token, stamp["receipt_id"]) == (Outcome.PASS, "")
            lack = (Outcome.ABSTAIN, "no_call")
            assert await judge_leg(world, token, stamp["receipt_id"], prefix=b"") == lack
            assert await judge_leg(world, token, stamp["receipt_id"], prefix=b"\x93\xc4\x00\x00\xc4\x00") == lack
            receipt = verify_call(shown, DOMAIN, model=MODEL, content=text.encode(), body=_body(shown, world))
            assert receipt.finish_reason == FinishReason.LENGTH
            assert shown["order"]["prefix_hash"] != "0x" + ZERO32.hex() == cut["order"]["prefix_hash"]
            found, evidence = await checked_call(world, token, stamp["receipt_id"])
            order, _, result = result_of(found)
            call = ShownCall("chat.completions", base64.b64decode(found["body"]), b"", b"",
                             base64.b64decode(found["prefix"]))  # fmt: skip
            service = chat(LetterEngine())
            request = service.parse(call.api, call.body)
            asked = replay_body(request, call, result, evidence, order.sampler_seed)
            status, bought, _ = await world.post("/replays", asked)
            assert status == 200, bought
            compared = service.compare(result, evidence, base64.b64decode(bought["replay"]))
            assert (compared.is_wellformed, compared.distance) == (True, 0.0)

    asyncio.run(story())


def _body(shown: dict[str, Any], world: World) -> bytes | None:
    kept = world.gateway.settlement.store.find(bytes.fromhex(shown["receipt_id"][2:]), world.gateway.settlement.clock())
    return None if kept is None else kept.request.body


def test_rest_that_another_model_made_fails(tmp_path: Path) -> None:
    """A prefix is no cover: whoever takes over answers for its own tokens."""

    async def story() -> None:
        async with (
            open_world(tmp_path, nodes=0) as world,
            real_node(world, 0, chat(BreakingEngine(noise=3.0))),
            real_node(world, 1, chat(BreakingEngine(noise=3.0))),
        ):
            token = await open_session(world)
            _, stamp, _ = await ask_in_two_legs(world)
            outcome, _ = await judge_leg(world, token, stamp["receipt_id"])
            assert outcome is Outcome.FAIL

    asyncio.run(story())
