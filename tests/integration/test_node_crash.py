"""A node process killed with SIGKILL: what it had written is sent by its successor, unchanged."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path

from tests.link_world import DOMAIN, GATEWAY_KEY, LIMITS, until
from tests.node_twins import HandGateway
from tests.node_world import SETTINGS, NodeWorld

from steelyard.link.server import LinkServer

ROOT = Path(__file__).parents[2]


async def _start(folder: Path, port: int, *options: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "tests.node_process", str(folder), str(port), *options)
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)


def _written(folder: Path) -> list[tuple[int, bytes, bytes]]:
    connection = sqlite3.connect(folder / "node.db")
    try:
        return connection.execute("SELECT seq, head, signature FROM node_batches ORDER BY seq").fetchall()
    finally:
        connection.close()


def test_node_killed_between_writing_and_sending_a_batch_sends_the_same_batch(tmp_path: Path) -> None:
    """The process dies by SIGKILL with its batch on disk; the next process sends it: same digest, same signature.

    The calls had their receipts already, so the gateway pays for all of them; the lane then goes on at batch 2.
    """

    async def story() -> None:
        gateway = HandGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0)
        world = NodeWorld(tmp_path, None, gateway, server, port, SETTINGS, {}, *[None] * 4, [], [])  # type: ignore[arg-type]
        process = await _start(tmp_path, port, "kill-before-send")
        try:
            await asyncio.wait_for(gateway.up.wait(), 20)
            calls = [world.order("hello") for _ in range(7)]
            await asyncio.gather(*(call.ended.wait() for call in calls))
            assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGKILL
            assert gateway.batches == []
            ((seq, head, signature),) = _written(tmp_path)
            assert seq == 1

            gateway.up.clear()
            process = await _start(tmp_path, port)
            await asyncio.wait_for(gateway.up.wait(), 20)
            await until(lambda: gateway.batches)
            signed, has_entries = gateway.batches[0]
            assert DOMAIN.digest(signed.batch.struct_hash()) == head
            assert signed.signature == signature
            assert has_entries
            assert gateway.paid_nano == sum(call.receipt.cost for call in calls if call.receipt)

            more = world.order("hello again")
            await more.ended.wait()
            await until(lambda: gateway.lanes[gateway.lane].count == 8)
            assert [row[0] for row in _written(tmp_path)] == [1, 2]
            assert _written(tmp_path)[0] == (1, head, signature)
            assert gateway.refused == []
        finally:
            process.kill()
            await process.wait()
            await server.aclose()

    asyncio.run(story())


def test_node_killed_under_load_never_signs_two_batches_of_one_number(tmp_path: Path) -> None:
    """Killed five times while orders come: every head that the gateway saw is on disk, and the chain of heads holds."""

    async def story() -> None:
        gateway = HandGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0)
        world = NodeWorld(tmp_path, None, gateway, server, port, SETTINGS, {}, *[None] * 4, [], [])  # type: ignore[arg-type]
        for life in range(5):
            process = await _start(tmp_path, port)
            try:
                await asyncio.wait_for(gateway.up.wait(), 20)
                for _ in range(3 + life):
                    calls = [world.order("x y", is_stream=True) for _ in range(20)]
                    await asyncio.gather(*(call.ended.wait() for call in calls))
                    await asyncio.sleep(0.015 * life)
            finally:
                gateway.up.clear()
                process.kill()
                await process.wait()
                await until(lambda: gateway.link is None or not gateway.link.is_up)
        heads = {seq: head for seq, head, _ in _written(tmp_path)}
        for signed, _ in gateway.batches:
            assert heads[signed.batch.seq] == DOMAIN.digest(signed.batch.struct_hash())
        assert len(gateway.batches) > 5
        assert gateway.refused == []
        await server.aclose()

    asyncio.run(story())
