"""Light requests of many callers before one node: fewer exchanges, the same answers, nobody's fault but one's own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from tests.relay_world import ScriptedNode, open_node
from tests.service_world import collect

from steelyard.errors import Unavailable
from steelyard.services.rpc import RpcService
from steelyard.services.rpc.merging import MERGE_ABOVE

CALLERS = 60


class SlowNode(ScriptedNode):
    """Takes 30 ms for whatever it is asked; a balance is the address itself."""

    bad = ""
    takes_batches = True

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.03)
        body = json.loads(await request.read())
        self.asked.append(body)
        if isinstance(body, list) and not self.takes_batches:
            return web.json_response({"error": "no batches here"}, status=400)
        calls = body if isinstance(body, list) else [body]
        answers = [self.answer(call) for call in reversed(calls)]
        return web.json_response(answers if isinstance(body, list) else answers[0])

    def answer(self, call: Any) -> dict[str, Any]:
        head = {"jsonrpc": "2.0", "id": call["id"]}
        account = call["params"][0]
        if account == self.bad:
            return {**head, "error": {"code": -32005, "message": "too many"}}
        return {**head, "result": account}


async def ask(service: RpcService, number: int, method: str = "eth_getBalance") -> Any:
    """One caller's balance."""
    body = {"jsonrpc": "2.0", "id": f"caller {number}", "method": method, "params": [hex(number), "latest"]}
    result, _ = await collect(service, service.parse("rpc", json.dumps(body).encode()))
    return json.loads(result.content)


def tell(node: SlowNode, method: str = "eth_getBalance") -> list[Any]:
    """What all callers hear who ask at once."""

    async def run() -> list[Any]:
        async with open_node(node) as here:
            service = RpcService(RpcService.describe("anvil"), options=here.options)
            try:
                return await asyncio.gather(
                    *(ask(service, number, method) for number in range(CALLERS)), return_exceptions=True
                )
            finally:
                await service.aclose()

    return asyncio.run(run())


def test_light_requests_of_many_callers_share_exchanges() -> None:
    """A few go alone, the rest together; everybody gets the own answer under the own id."""
    node = SlowNode()
    assert tell(node) == [
        {"jsonrpc": "2.0", "id": f"caller {number}", "result": hex(number)} for number in range(CALLERS)
    ]
    assert [len(body) if isinstance(body, list) else 1 for body in node.asked[:MERGE_ABOVE]] == [1] * MERGE_ABOVE
    assert len(node.asked) <= MERGE_ABOVE + 2


def test_heavy_requests_go_alone() -> None:
    """What may keep a node busy holds nobody else up."""
    node = SlowNode()
    assert all(answer["result"] for answer in tell(node, "eth_call"))
    assert len(node.asked) == CALLERS


def test_one_request_that_the_node_fails_on_fails_alone() -> None:
    """Its batch is asked again one by one."""
    node = SlowNode()
    node.bad = hex(30)
    answers = tell(node)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, Unavailable)] == [30]
    assert sum(isinstance(answer, dict) for answer in answers) == CALLERS - 1


def test_node_without_batches_is_asked_one_by_one() -> None:
    """Nobody notices."""
    node = SlowNode()
    node.takes_batches = False
    assert [answer["result"] for answer in tell(node)] == [hex(number) for number in range(CALLERS)]


def test_caller_who_hangs_up_takes_nobody_along() -> None:
    """Whether on its way or waiting, its request ends, and the others' don't."""
    node = SlowNode()

    async def run() -> None:
        async with open_node(node) as here:
            service = RpcService(RpcService.describe("anvil"), options=here.options)
            asking = [asyncio.create_task(ask(service, number)) for number in range(20)]
            await asyncio.sleep(0.01)
            for task in asking[::3]:
                task.cancel()
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [n % 3 == 0 for n in range(20)]
            assert (await ask(service, 99))["result"] == hex(99)
            waiting = [asyncio.create_task(ask(service, number)) for number in range(20)]
            await asyncio.sleep(0.01)
            await service.aclose()
            async with asyncio.timeout(5):
                ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(answer, BaseException) for answer in ended)
            with pytest.raises(Unavailable):
                await ask(service, 1)

    asyncio.run(run())
