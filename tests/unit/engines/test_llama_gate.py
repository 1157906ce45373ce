"""engines/llama_gate.py: steps that meet are computed together, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, cast

import pytest

from steelyard.engines.llama_gate import StepGate
from steelyard.engines.llama_server import LlamaServer
from steelyard.errors import BadRequest, SteelyardError, Unavailable


class FakeServer:
    """Takes calls and answers them when told; the answer to a prompt is its last token."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.calls: list[Future[dict[str, Any]]] = []

    def submit(self, call: str, body: dict[str, Any]) -> Future[dict[str, Any]]:
        self.bodies.append(body)
        self.calls.append(Future())
        return self.calls[-1]

    async def answer(self, answer: dict[str, Any] | None = None) -> None:
        """Answer the oldest open call, once there is one, and let everybody run."""
        while not self.calls:  # noqa: ASYNC110 - the list is all there is to look at
            await asyncio.sleep(0)
        prompt = self.bodies[-1]["prompt"]
        prompts = prompt if isinstance(prompt[0], list) else [prompt]
        choices = [{"index": index, "token": tokens[-1]} for index, tokens in enumerate(prompts)]
        self.calls.pop(0).set_result(answer or {"choices": choices[::-1]})
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def gate_of(server: FakeServer) -> StepGate:
    """A gate before a fake server."""
    return StepGate(cast(LlamaServer, server), {"max_tokens": 1})


def test_lone_step_names_its_slot() -> None:
    """One session keeps to its very slot, without waiting for anyone."""

    async def run() -> None:
        server = FakeServer()
        gate = gate_of(server)
        step = asyncio.create_task(gate.step(3, [1, 2]))
        await server.answer()
        assert (await step)["token"] == 2
        assert server.bodies == [{"max_tokens": 1, "prompt": [1, 2], "id_slot": 3}]

    asyncio.run(run())


def test_steps_that_arrive_during_a_flight_leave_together() -> None:
    """A second session joins after the first one's flight, and from then on both are computed in one request."""

    async def run() -> None:
        server = FakeServer()
        gate = gate_of(server)
        first = asyncio.create_task(gate.step(0, [1]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.create_task(gate.step(1, [7]))
        await server.answer()
        assert (await first)["token"] == 1
        first = asyncio.create_task(gate.step(0, [1, 2]))
        await server.answer()
        assert [(await first)["token"], (await second)["token"]] == [2, 7]
        assert server.bodies[-1]["prompt"] == [[7], [1, 2]]
        assert "id_slot" not in server.bodies[-1]
        steps = [asyncio.create_task(gate.step(0, [1, 2, 3])), asyncio.create_task(gate.step(1, [7, 8]))]
        await server.answer()
        assert [choice["token"] for choice in await asyncio.gather(*steps)] == [3, 8]

    asyncio.run(run())


def test_session_that_stays_away_is_waited_for_once_and_briefly() -> None:
    """A slow reader costs the others one grace, not one per token."""

    async def run() -> None:
        server = FakeServer()
        gate = gate_of(server)
        both = [asyncio.create_task(gate.step(0, [1])), asyncio.create_task(gate.step(1, [7]))]
        await server.answer()
        await asyncio.gather(*both)
        for tokens in ([1, 2], [1, 2, 3]):
            step = asyncio.create_task(gate.step(0, tokens))
            await server.answer()
            await asyncio.wait_for(step, 1)
            assert server.bodies[-1]["id_slot"] == 0

    asyncio.run(run())


def test_session_that_leaves_is_not_waited_for_and_its_flight_is_known() -> None:
    """Leaving in mid-flight returns the call to wait for before the slot is used again; leaving while waiting returns
    none.
    """

    async def run() -> None:
        server = FakeServer()
        gate = gate_of(server)
        step = asyncio.create_task(gate.step(0, [1]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        flight = gate.leave(0)
        assert flight is server.calls[0]
        waiting = asyncio.create_task(gate.step(1, [7]))
        await asyncio.sleep(0)
        assert gate.leave(1) is None
        await server.answer()
        assert (await step)["token"] == 1
        await asyncio.sleep(0.01)
        assert len(server.bodies) == 1
        waiting.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"error": {"message": "no room", "type": "exceed_context_size_error"}}, BadRequest),
        ({"error": {"message": "out of memory", "type": "server_error"}}, Unavailable),
        ({"choices": [{"index": 0}]}, Unavailable),
    ],
)
def test_failed_batch_fails_all_who_were_in_it(answer: dict[str, Any], error: type[SteelyardError]) -> None:
    """Errors, and answers that lack a step, reach everyone; the next step starts afresh."""

    async def run() -> None:
        server = FakeServer()
        gate = gate_of(server)
        both = [asyncio.create_task(gate.step(0, [1])), asyncio.create_task(gate.step(1, [7]))]
        await server.answer(answer)
        for outcome in await asyncio.gather(*both, return_exceptions=True):
            assert isinstance(outcome, error)
        again = asyncio.create_task(gate.step(0, [1]))
        await server.answer()
        assert (await again)["token"] == 1

    asyncio.run(run())


def test_server_that_breaks_down_leaves_nobody_waiting() -> None:
    """A call that raises or is cancelled ends every step with an error."""

    async def run() -> None:
        for failure in (RuntimeError("gone"), None):
            server = FakeServer()
            gate = gate_of(server)
            step = asyncio.create_task(gate.step(0, [1]))
            while not server.calls:  # noqa: ASYNC110 - the list is all there is to look at
                await asyncio.sleep(0)
            if failure is None:
                server.calls[0].cancel()
            else:
                server.calls[0].set_exception(failure)
            with pytest.raises(Unavailable, match="the engine failed"):
                await asyncio.wait_for(step, 1)

    asyncio.run(run())
