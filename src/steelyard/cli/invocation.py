"""One run of the command: its home, its settings, and the wallets that it may open.

1. Settings are read once, when a command first asks for them; ``--help`` asks for none.
2. A wallet is named, or given as an address where no signature is needed.

Law: docs/cli.md, section 2.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from steelyard.errors import BadRequest, ConfigError

if TYPE_CHECKING:
    from steelyard.cli.settings import Settings
    from steelyard.protocol.signing import SigningKey

T = TypeVar("T")
DEFAULT_HOME = Path("~/.steelyard")


@dataclass(slots=True)
class Invocation:
    """What the command line said before the command's own words."""

    home: Path
    is_debug: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    _settings: Settings | None = None

    @classmethod
    def of(cls, context: typer.Context) -> Invocation:
        """Return the invocation that a command runs in."""
        found = context.find_object(cls)
        return found if found is not None else cls(find_home(None))

    @property
    def settings(self) -> Settings:
        """The effective settings; raises ConfigError in one clear line."""
        if self._settings is None:
            from steelyard.cli.settings_file import load_settings

            self._settings = load_settings(self.home, self.overrides)
        return self._settings

    def override(self, section: str, **values: Any) -> None:
        """Let command-line flags win over file and environment; a value of None says nothing."""
        said = {name: value for name, value in values.items() if value is not None}
        if said:
            self.overrides.setdefault(section, {}).update(said)
            self._settings = None

    def find_account(self, name_or_address: str) -> bytes:
        """Return the account of a wallet by its name, or of an address; raises ConfigError or BadRequest."""
        from steelyard.protocol.ids import parse_account

        if name_or_address.startswith("0x"):
            return parse_account(name_or_address)
        from steelyard.chain.keystore import load_keystore_info

        return load_keystore_info(self.settings.keystore(name_or_address)).account

    def open_key(self, name: str, chain_id: int) -> SigningKey:
        """Return a wallet's key for use on a chain; asks for its passphrase where it has one.

        Raises:
            ConfigError: no such wallet, a wrong passphrase, or a development key off the embedded chain.
        """
        from steelyard.chain.keystore import load_key, passphrase_reader, passphrase_source

        return load_key(
            self.settings.keystore(name),
            chain_id=chain_id,
            rpc_urls=self.settings.chain.rpc_urls,
            read_passphrase=passphrase_reader(os.environ),
            source=passphrase_source(os.environ),
        )


def find_home(option: Path | None) -> Path:
    """Return the folder of settings, keys and data: the option, else STEELYARD_HOME, else ``~/.steelyard``."""
    chosen = option or Path(os.environ.get("STEELYARD_HOME") or DEFAULT_HOME)
    home = chosen.expanduser().absolute()
    if home.exists() and not home.is_dir():
        raise ConfigError(f"the home {home} is a file: name a folder with --home or STEELYARD_HOME")
    return home


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part to its end; rooms that log are heard from warnings on."""
    from steelyard.cli.logs import configure_logs

    configure_logs(is_quiet=True)
    return asyncio.run(work)


def parse_amount(text: str) -> int:
    """Return the nano of an amount in YARD given on the command line; raises BadParameter (status 2)."""
    from steelyard.protocol.pricing import parse_yard

    try:
        return parse_yard(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def check_positive(amount_nano: int, what: str) -> int:
    """Return an amount above zero; raises BadRequest naming it."""
    if amount_nano <= 0:
        raise BadRequest(f"{what} is 0: give an amount above zero, like 12 or 0.5", param=what)
    return amount_nano
