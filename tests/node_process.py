"""A node as a process of its own, for tests that kill it.

python -m tests.node_process FOLDER PORT [kill-before-send | chat]

With `kill-before-send` it ends itself by SIGKILL when its first batch is on disk and would be sent. With `chat` it
sells answers of the little model instead of echoes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.node_twins import HandGateway, TwinChain
from tests.node_world import SETTINGS, NodeWorld, build_echo, build_letters, offer_service, start_parts

from steelyard.link.port import LeafEntry
from steelyard.node.lane_feed import LaneFeed
from steelyard.protocol.lanes import SignedBatch


def _kill_before_send(
    self: LaneFeed, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(folder: Path, port: int, *, is_chat: bool) -> None:
    """Run a node until it is killed."""
    service = offer_service(build_letters() if is_chat else build_echo())
    services = {service.signed_offer.offer.service_id: service}
    world = NodeWorld(folder, TwinChain(), HandGateway(), None, port, SETTINGS, services, *[None] * 4, [], [])  # type: ignore[arg-type]
    await start_parts(world)
    await asyncio.gather(*world.tasks)


if __name__ == "__main__":
    if sys.argv[3:] == ["kill-before-send"]:
        LaneFeed.push = _kill_before_send  # type: ignore[method-assign]
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), is_chat=sys.argv[3:] == ["chat"]))
