"""A node that writes down all that it sees of each order, one JSON object a line, then serves it as any node does.

`python bench/verification/watching_node.py node run …`, with BENCH_NODE_WATCH naming the file.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from steelyard.cli.app import main
from steelyard.link.port import CallRequest, GatewayLink
from steelyard.node.node import Node

WATCH_VARIABLE = "BENCH_NODE_WATCH"


def watch(path: Path) -> None:
    """Put a pair of eyes before each node's `on_call`."""
    plain = Node.on_call
    file = path.open("a", encoding="utf-8", buffering=1)

    def on_call(self: Node, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        order, now_ms = request.order, time.time_ns() // 1_000_000
        seen = {
            "at_ms": now_ms, "gateway": order.gateway.hex(), "lane": order.lane_id, "call_id": order.call_id.hex(),
            "seed": str(order.sampler_seed), "grade": order.grade, "price_in": order.price_in,
            "price_out": order.price_out, "max_cost": order.max_cost, "deadline_in_ms": order.deadline_ms - now_ms,
            "prefix_bytes": len(request.prefix), "is_stream": is_stream, "api": request.api,
            "body": request.body.decode("utf-8", "replace"),
        }  # fmt: skip
        file.write(json.dumps(seen) + "\n")
        plain(self, link, request, is_stream=is_stream)

    Node.on_call = on_call  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Path(os.environ[WATCH_VARIABLE]))
    main()
