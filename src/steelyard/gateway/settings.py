"""What one gateway process is told: where it listens, what it allows, when it pays.

Law: docs/spec/gateway.md, section 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from steelyard.errors import ConfigError

_PROCESS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """One gateway process's settings; durations in seconds, sizes in bytes, amounts in nano.

    Attributes:
        process: stable name of this process; its lanes and leased budgets are found again under it.
        host, port: where HTTP is served; port 0 takes a free one. own_port: with one, other processes serve `port` too,
            and this one on loopback is this process's alone, for operators. link_host, link_port: where nodes dial.
        public_url: what `/v1/network` names as base URL; empty: from host and port. link_url: what nodes dial.
        max_body_bytes: the largest request body. max_calls: calls at once; more are refused with 503.
        deadline_s: how long a provider may work on one call. max_attempts: providers tried before the first byte.
        first_byte_s: after how long without the first piece of a stream another provider is asked as well; 0: never.
        stall_s: after how long without a further piece a stream goes on at another provider; 0: never.
        rescue_wait_s: how long a stream that lost its provider waits for one that is only busy.
        grace_s: how long after its deadline a lost call's receipt is still awaited before its reservation is freed.
        voucher_count, voucher_nano, voucher_age_s: a voucher is signed at so many calls, so much value, or so old.
        reserve_nano: what the gateway keeps back of its escrow deposit.
        watch_s: how often the chain is looked at. key_check_s: how often changed keys are looked for (at most 1).
        idempotency_s, max_replay_bytes: how long, and up to which size, an answer is kept for its Idempotency-Key.
        checks_keep_s, checks_keep_bytes: how long, and how much at most, the texts of calls that are not private are
            kept in memory for validators; 0 bytes keep none.
        consents_to_demands: whether validators may demand evidence on chain, where it is public, that a provider did
            not serve here.
        relay_batch_items: JSON-RPC requests in one body. relay_subscriptions, relay_messages_per_minute: of one socket.
        relay_cache_bytes, relay_cache_s: how much of answers that stay true is kept in memory, and how long; 0 bytes
            keep none.
        relay_probe_s: how often providers of chains are asked for their height; 0: never, nor for anything else.
        relay_cross_check_share: of the reads that have one answer for ever, how many two other providers are asked too.
        relay_hedge_share: of the reads, how many at most are asked of a second provider when the first one is slow.
        relay_watch_nano: what the gateway spends on its own questions in an hour at most.
        is_proving: prove lies of providers on chain as they are found; they are kept in any case.
        admin_key_ids: keys that may read every call.
        drain_s: how long a stop waits for calls in flight.
        serves_cors: whether browsers on other origins may call.
    """

    process: str = "gateway"
    host: str = "127.0.0.1"
    port: int = 8080
    own_port: int = 0
    link_host: str = "127.0.0.1"
    link_port: int = 8090
    public_url: str = ""
    link_url: str = ""
    max_body_bytes: int = 2 << 20
    max_calls: int = 4096
    deadline_s: float = 300.0
    first_byte_s: float = 20.0
    stall_s: float = 15.0
    rescue_wait_s: float = 2.0
    grace_s: float = 30.0
    max_attempts: int = 3
    voucher_count: int = 64
    voucher_nano: int = 10_000_000
    voucher_age_s: float = 1.0
    reserve_nano: int = 0
    watch_s: float = 2.0
    key_check_s: float = 0.5
    idempotency_s: float = 86_400.0
    max_replay_bytes: int = 1 << 20
    checks_keep_s: float = 900.0
    checks_keep_bytes: int = 64 << 20
    consents_to_demands: bool = True
    relay_batch_items: int = 1_000
    relay_subscriptions: int = 64
    relay_messages_per_minute: int = 6_000
    relay_cache_bytes: int = 64 << 20
    relay_cache_s: float = 600.0
    relay_probe_s: float = 10.0
    relay_cross_check_share: float = 0.02
    relay_hedge_share: float = 0.05
    relay_watch_nano: int = 50_000_000
    is_proving: bool = True
    admin_key_ids: frozenset[str] = frozenset()
    drain_s: float = 10.0
    serves_cors: bool = True

    def __post_init__(self) -> None:
        if not _PROCESS.fullmatch(self.process):
            raise ConfigError(f"gateway process name {self.process!r}: use 1 to 64 of a-z 0-9 . _ -")
        for port in (self.port, self.own_port, self.link_port):
            if not 0 <= port <= 65_535:
                raise ConfigError(f"gateway port {port}: it is 0 to 65535")
        for name in (
            "max_body_bytes",
            "max_calls",
            "deadline_s",
            "max_attempts",
            "voucher_count",
            "watch_s",
            "relay_batch_items",
            "relay_messages_per_minute",
            "drain_s",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"gateway {name} is {getattr(self, name)}: it must be above zero")
        for name in (
            "first_byte_s",
            "stall_s",
            "rescue_wait_s",
            "checks_keep_s",
            "checks_keep_bytes",
            "relay_subscriptions",
            "relay_cache_bytes",
            "relay_cache_s",
            "relay_probe_s",
            "relay_watch_nano",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"gateway {name} is {getattr(self, name)}: it must not be negative")
        for name in ("relay_cross_check_share", "relay_hedge_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"gateway {name} is {getattr(self, name)}: it must be from 0 to 1")
        if not 0 < self.key_check_s <= 1:
            raise ConfigError(f"gateway key_check_s is {self.key_check_s}: a revoked key must be refused within 1 s")
