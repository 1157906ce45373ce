"""The numbers of docs/spec/relay.md are the code's."""

from __future__ import annotations

from pathlib import Path

from steelyard.gateway import (
    relay_cache,
    relay_feed,
    relay_heads,
    relay_heights,
    relay_routes,
    relay_socket,
    socket_protocol,
)
from steelyard.gateway.relay_errors import INTERNAL_ERROR, LIMIT_EXCEEDED, REFUSED, UNAVAILABLE
from steelyard.gateway.relay_subscriptions import INVALID_PARAMS
from steelyard.gateway.settings import GatewaySettings

PAGE = " ".join((Path(__file__).parents[3] / "docs/spec/relay.md").read_text().split())


def test_relay_spec_numbers_equal_the_code() -> None:
    """Whoever changes a bound changes the page with it."""
    settings = GatewaySettings()
    for said in (
        f"`relay_batch_items` ({settings.relay_batch_items:,})",
        f"`relay_cache_bytes` ({settings.relay_cache_bytes >> 20} MiB)",
        f"`relay_cache_s` ({settings.relay_cache_s:.0f} s)",
        f"none larger than 1/{relay_cache.LARGEST_SHARE} of all",
        f"within {relay_heights.KEEP_S:.0f} s",
        f"`relay_messages_per_minute` ({settings.relay_messages_per_minute:,})",
        f"`relay_subscriptions` ({settings.relay_subscriptions})",
        f"{relay_socket.MAX_REQUESTS} requests at once",
        f"{relay_socket.MAX_SOCKETS:,} sockets",
        f"more than {relay_socket.OUTBOX_BYTES >> 20} MiB wait",
        f"cut {socket_protocol.LINGER_S:.0f} s later",
        f"{relay_feed.ORDER_MESSAGES} messages and {relay_feed.ORDER_S} s",
        f"for {relay_feed.REPLAY_S:.0f} s. Then the socket",
        f"last {relay_heads.HEADS_KEPT} heads",
        f"{relay_heads.MAX_STEP} at a time",
        f"at most {relay_heads.MAX_REORG} back",
        f"tried {len(relay_feed.FILL_PAUSES_S)} times, or that lies over {relay_heads.MAX_MISSING:,} above",
        f"After {relay_feed.SILENT_BLOCKS} block times without a head, {relay_feed.SHORTEST_SILENCE_S:.0f} s at least",
        *(f"| {code} |" for code in (relay_socket.FEED_LOST, relay_socket.KEY_REFUSED, relay_socket.SLOW_CLIENT)),
        *(f"| {code} |" for code in (INTERNAL_ERROR, LIMIT_EXCEEDED, REFUSED, UNAVAILABLE, INVALID_PARAMS)),
    ):
        assert said in PAGE, said
    assert relay_feed.DUE_SHARE == 7 / 8
    assert f"`{relay_routes.TARGET.decode().title()}: {{chain}}`" in PAGE
