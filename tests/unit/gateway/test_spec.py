"""The numbers of docs/spec/gateway.md are the code's."""

from __future__ import annotations

from pathlib import Path

from steelyard.gateway import access, calls_view, check_sessions, checks, hangups, routing, settlement
from steelyard.gateway.assembly import STALE_CHAIN_BEATS
from steelyard.gateway.replies import HOT_ROUTES
from steelyard.gateway.settings import GatewaySettings
from steelyard.link import asks

PAGE = " ".join((Path(__file__).parents[3] / "docs/spec/gateway.md").read_text().split())


def test_spec_numbers_equal_the_code() -> None:
    """Whoever changes a default changes the page with it."""
    settings = GatewaySettings()
    for said in (
        f"at most {calls_view.MAX_PAGE} a page",
        f"from {int(hangups.PATIENCE_S * 1000)} ms on",
        f"`watch_s` ({settings.watch_s:.0f} s)",
        f"at least {routing.EXPLORE_SHARE:.0%}".replace("%", " %"),
        f"averages of weight {routing.EWMA_WEIGHT}",
        f"has {routing.WARM_SLACK_CALLS} calls more in flight",
        f"open it for {routing.FIRST_PAUSE_S:.0f} s, doubling to {routing.LONGEST_PAUSE_S:.0f} s",
        f"`max_attempts` ({settings.max_attempts})",
        f"its link is away for {settlement.AWAY_S} s",
        f"or nothing for `stall_s` ({settings.stall_s:.0f} s)",
        f"not begun after `first_byte_s` ({settings.first_byte_s:.0f} s)",
        f"up to `rescue_wait_s` ({settings.rescue_wait_s:.0f} s)",
        f"after {settings.key_check_s} s, and never trusted for longer than {access.LONGEST_TRUST_S:.0f} s",
        f"`grace_s` ({settings.grace_s:.0f} s)",
        f"`idempotency_s` ({settings.idempotency_s / 3600:.0f} h)",
        f"`max_replay_bytes` ({settings.max_replay_bytes >> 20} MiB)",
        f"`checks_keep_s` ({settings.checks_keep_s:.0f} s)",
        f"`checks_keep_bytes` ({settings.checks_keep_bytes >> 20} MiB)",
        f"opens one session for that account within {check_sessions.NONCE_S} s",
        f"good for {check_sessions.SESSION_S} s, a validator has at most {check_sessions.SESSIONS_EACH}, and "
        f"{check_sessions.REQUESTS_PER_MINUTE:,} requests a minute",
        f"at most {checks.MAX_PAGE} a page. Its calls",
        f"did not answer within {asks.ASK_S:.0f} s",
        f"at {settings.voucher_count} calls, {settings.voucher_nano:,} nano or {settings.voucher_age_s:.0f} s",
    ):
        assert said in PAGE, said
    assert STALE_CHAIN_BEATS == 10
    assert routing.FAILURES_TO_OPEN == 3
    assert routing.FAILURE_RATE_TO_OPEN == 0.5


def test_spec_names_every_hot_route() -> None:
    """The table of routes is whole."""
    assert all(f"`POST {route}`" in PAGE for route in HOT_ROUTES)
