"""What an embedded chain is started with.

1. Everything is checked here, once, with a message that names the setting and the value.
2. Genesis settings (chain id, funded accounts) count only for a new database; a reopened one keeps its own.

Law: docs/spec/embedded-chain.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steelyard.errors import ConfigError

DEFAULT_CHAIN_ID = 31415
DEFAULT_HEARTBEAT_S = 2.0
BLOCK_GAS_LIMIT = 30_000_000
FUND_WEI = 10_000 * 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """One embedded chain: where its file lies, where it listens, and how its time passes.

    Args:
        db: the SQLite file; made when missing, its parent folder too.
        port: 0 takes a free one.
        host: the address to bind; anything but loopback shows the chain to the network.
        chain_id: of a new database; a reopened one must have been made with the same.
        heartbeat_s: an empty block follows after this many seconds without one; 0 makes none.
        is_dev_time: opens `evm_increaseTime` and `evm_mine`.
        fund: accounts (20 bytes each) that get `FUND_WEI` at genesis, for gas.
        is_full_sync: SQLite `synchronous=FULL`: survives power loss, not only a killed process.
        cors_origins: browser origins that may read answers; `*` is any.
        max_body_bytes: of one HTTP request or WebSocket message.
    """

    db: Path
    port: int = 0
    host: str = "127.0.0.1"
    chain_id: int = DEFAULT_CHAIN_ID
    heartbeat_s: float = DEFAULT_HEARTBEAT_S
    is_dev_time: bool = False
    fund: tuple[bytes, ...] = ()
    is_full_sync: bool = False
    cors_origins: tuple[str, ...] = ("*",)
    max_body_bytes: int = 5 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not between 0 and 65535", param="port")
        if not 1 <= self.chain_id < 2**53:
            raise ConfigError(f"chain id {self.chain_id} is not between 1 and 2^53 - 1", param="chain_id")
        if not 0 <= self.heartbeat_s <= 86_400:
            raise ConfigError(f"heartbeat {self.heartbeat_s} s is not between 0 (none) and 86400", param="heartbeat_s")
        if self.max_body_bytes < 1024:
            raise ConfigError(f"body limit {self.max_body_bytes} is below 1024 bytes", param="max_body_bytes")
        for account in self.fund:
            if len(account) != 20:
                raise ConfigError(f"0x{account.hex()} is not an account: 20 bytes are needed", param="fund")
