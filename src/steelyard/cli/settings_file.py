"""Loading the settings, and saying in one line what is wrong with them or where each value came from.

1. Sources, strongest first: flags, environment, ``config.toml``, defaults.
2. The first mistake is told: where it stands, the value, the nearest key. Values of secrets are never told.

Law: docs/cli.md, section 3.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsError

from steelyard.cli.settings import ServiceEntry, Settings
from steelyard.errors import ConfigError

CONFIG_FILE = "config.toml"
PREFIX = "STEELYARD_"
OTHER_VARIABLES = frozenset(
    {"HOME", "PASSPHRASE", "PASSPHRASE_FILE", "BASE_URL", "API_KEY", "DEBUG", "ANVIL", "SUPERVISOR"}
)
"""Variables of ours that are not settings; those that begin with TEST_ are for tests."""


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting as ``config show`` prints it: its dotted key, its value with secrets hidden, its source."""

    key: str
    value: Any
    source: str


def load_settings(home: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the effective settings of a home.

    Args:
        home: absolute. overrides: what flags said, by section and key.

    Raises:
        ConfigError: an unreadable file, an unknown key (names the nearest), or a value that can't be.
    """
    file = load_config_file(home)
    _check_environment(os.environ)

    class Here(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, EnvSettingsSource(settings_cls), _Fixed(settings_cls, file)

    try:
        return Here(home=home, **(overrides or {}))
    except ValidationError as error:
        raise ConfigError(_explain(error, file), code="bad_setting") from None
    except SettingsError as error:
        raise ConfigError(f"a {PREFIX}* variable can't be read: {error}", code="bad_setting") from None


def load_config_file(home: Path) -> dict[str, Any]:
    """Return what ``config.toml`` in a home says, unchecked; {} where there is none; raises ConfigError."""
    path = home / CONFIG_FILE
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}", code="bad_setting") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read {path}: {error}", code="bad_setting") from None


def show_settings(settings: Settings, overrides: Mapping[str, Any] | None = None) -> list[ShownSetting]:
    """Return every effective setting with its source: a flag, a variable, the file, or the default."""
    file = load_config_file(settings.home)
    shown = []
    for key, value in _leaves(settings, ""):
        parts = key.split(".")
        variable = PREFIX + "__".join(parts).upper()
        if key == "home":
            source = "--home" if PREFIX + "HOME" not in os.environ else PREFIX + "HOME"
            source = source if settings.home != Path("~/.steelyard").expanduser() else "default"
        elif _has(overrides or {}, parts):
            source = "flag"
        elif os.environ.get(variable):
            source = variable
        elif _has(file, parts):
            source = CONFIG_FILE
        else:
            source = "default"
        shown.append(ShownSetting(key, _hide(key, value or _derive(settings, key) or value), source))
    return shown


def _derive(settings: Settings, key: str) -> Any:
    places: dict[str, Any] = {
        "chain.deployment": settings.deployment_file,
        "chain.db": settings.chain_db,
        "gateway.database": settings.gateway_database,
        "node.database": settings.node_database,
        "blobs.dir": settings.blobs_folder,
        "weights.cache": settings.weights_folder,
    }
    return places.get(key)


class _Fixed(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], values: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._values = values

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


def _check_environment(environment: Mapping[str, str]) -> None:
    sections = {name for name in Settings.model_fields if name != "home"}
    for variable in environment:
        rest = variable.removeprefix(PREFIX)
        if rest == variable or rest in OTHER_VARIABLES or rest.startswith("TEST_"):
            continue
        if rest.split("__")[0].lower() not in sections or "__" not in rest:
            near = _nearest(variable, [*_variables(), *(PREFIX + name for name in OTHER_VARIABLES)])
            raise ConfigError(f"{variable} is no setting{near}", code="unknown_setting")


def _explain(error: ValidationError, file: Mapping[str, Any]) -> str:
    told = error.errors(include_url=False)
    first = next((detail for detail in told if detail["type"] == "extra_forbidden"), told[0])
    path = [str(part) for part in first["loc"]]
    variable = PREFIX + "__".join(path).upper()
    place = path[:-1] if first["type"] == "missing" else path
    where = variable if variable in os.environ else ".".join(path)
    where = f"{CONFIG_FILE}: {where}" if variable not in os.environ and place and _has(file, place) else where
    if first["type"] == "extra_forbidden" and variable in os.environ:
        return f"{variable} is no setting{_nearest(variable, _variables())}"
    if first["type"] == "extra_forbidden":
        return f"{where} is no setting{_nearest('.'.join(path), _siblings(path))}"
    if first["type"] == "missing":
        return f"{where} is missing"
    value = "hidden" if "key" in path[-1] or path[-1] == "database" else repr(first.get("input"))[:80]
    return f"{where} is {value}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _variables() -> list[str]:
    return [PREFIX + "__".join(key.split(".")).upper() for key in _keys(Settings, "")]


def _siblings(path: list[str]) -> list[str]:
    if len(path) > 2 and path[:2] == ["node", "services"]:
        return [".".join((*path[:3], name)) for name in ServiceEntry.model_fields]
    return list(_keys(Settings, ""))


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5) or get_close_matches(
        name.rpartition(".")[2], [key.rpartition(".")[2] for key in known], n=1, cutoff=0.5
    )
    if not near:
        return ": see steelyard config show for all of them"
    return f"; did you mean {near[0]}?"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _leaves(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _has(values: Mapping[str, Any], path: list[str]) -> bool:
    found: Any = values
    for part in path:
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return False
    return True


def _hide(key: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return {name: _hide(name, getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {name: "********" if "authorization" in name else _hide(name, part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_hide(key, part) for part in value]
    if isinstance(value, str) and "://" in value:
        return hide_password(value)
    return value


def hide_password(url: str) -> str:
    """Return a URL with its password and query hidden."""
    try:
        parts = urlsplit(url)
        if not parts.password and not parts.query:
            return url
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "********"
    user = f"{parts.username}:********@" if parts.password else ""
    query = "********" if parts.query else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, query, ""))
