"""The numbers of docs/spec/relay.md are the code's."""

from __future__ import annotations

from pathlib import Path

from steelyard.gateway import (
    hedge,
    relay_cache,
    relay_checks,
    relay_feed,
    relay_heads,
    relay_heights,
    relay_purse,
    relay_routes,
    relay_socket,
    relay_watch,
    routing,
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
        f"all claims of the last {relay_heights.KEEP_S:.0f} s",
        f"more than {relay_heights.ALLOWED_S:.0f} s of the chain's blocks, at least {relay_heights.ALLOWED_BLOCKS},",
        f"`relay_probe_s` ({settings.relay_probe_s:.0f} s)",
        f"{relay_watch.QUIET_FACTOR} times less often on a chain that nobody asked for in {relay_watch.QUIET_S:.0f} s",
        f"then {relay_watch.RARE_FACTOR} times less often",
        f"more than {relay_watch.ARCHIVE_DEPTH} below the height",
        f"`{relay_purse.KEY_ID}`",
        f"`relay_watch_nano` ({settings.relay_watch_nano:,})",
        f"`relay_cross_check_share` ({settings.relay_cross_check_share:.0%}".replace("%", " %"),
        f"keeps {relay_checks.TRUST_KEPT:.0%} of its share".replace("%", " %"),
        f"never below {relay_checks.LEAST_TRUST:.0%};".replace("%", " %"),
        f"gives back {relay_checks.TRUST_REGAINED:.0%} of what".replace("%", " %"),
        f"`{relay_checks.EVENT}`",
        f"The last {relay_checks.KEPT} are shown",
        f"{routing.LATE_PART * 100:.0f}th percentile of its provider's last {routing.RECENT_CALLS} calls",
        f"at least {hedge.LEAST_S * 1000:.0f} ms and at most {hedge.MOST_S:.0f} s ({hedge.UNKNOWN_S:.0f} s while fewer",
        f"fewer than {hedge.LEAST_KNOWN} are known",
        f"`relay_hedge_share` ({settings.relay_hedge_share:.0%}".replace("%", " %"),
        f"`relay_messages_per_minute` ({settings.relay_messages_per_minute:,})",
        f"`relay_subscriptions` ({settings.relay_subscriptions})",
        f"{relay_socket.MAX_REQUESTS} requests at once",
        f"{relay_socket.MAX_SOCKETS:,} sockets",
        f"more than {relay_socket.OUTBOX_BYTES >> 20} MiB wait",
        f"cut {socket_protocol.LINGER_S:.0f} s later",
        f"{relay_feed.ORDER_MESSAGES} messages and {relay_feed.ORDER_S} s",
        f"halved, down to {relay_feed.LEAST_MESSAGES} messages",
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
