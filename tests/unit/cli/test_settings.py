"""Settings: where each value comes from, and the one line that a wrong one gets."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.settings import GatewaySection, NodeSection
from steelyard.cli.settings_file import hide_password, load_settings, show_settings
from steelyard.errors import ConfigError
from steelyard.gateway.settings import GatewaySettings
from steelyard.node.settings import NodeSettings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STEELYARD_"):
            monkeypatch.delenv(name)


def write(home: Path, text: str) -> Path:
    """Put a config.toml into a home and return the home."""
    (home / "config.toml").write_text(text)
    return home


def test_settings_of_an_empty_home_are_the_defaults(tmp_path: Path) -> None:
    """Without file, variables and flags everything has a default, and files lie in the home."""
    settings = load_settings(tmp_path)
    assert settings.chain.rpc_urls == ("http://127.0.0.1:8545",)
    assert settings.deployment_file == tmp_path / "deployment.json"
    assert settings.node_database == f"sqlite:///{tmp_path}/node-1.db"
    assert settings.keystore("me") == tmp_path / "keys" / "me.json"


def test_settings_sources_win_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag beats a variable, which beats the file, which beats the default; `config show` says which it was."""
    write(tmp_path, '[gateway]\nport = 1001\nlink_port = 1002\nprocess = "file"\n')
    monkeypatch.setenv("STEELYARD_GATEWAY__LINK_PORT", "2002")
    monkeypatch.setenv("STEELYARD_GATEWAY__PROCESS", "variable")
    overrides = {"gateway": {"process": "flag"}}
    settings = load_settings(tmp_path, overrides)
    assert (settings.gateway.port, settings.gateway.link_port, settings.gateway.process) == (1001, 2002, "flag")
    sources = {shown.key: shown.source for shown in show_settings(settings, overrides)}
    assert [sources[f"gateway.{key}"] for key in ("process", "link_port", "port", "host")] == [
        "flag",
        "STEELYARD_GATEWAY__LINK_PORT",
        "config.toml",
        "default",
    ]


def test_settings_lists_in_variables_are_split_at_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several endpoints fit in one variable."""
    monkeypatch.setenv("STEELYARD_CHAIN__RPC_URLS", "http://a:1, http://b:2")
    assert load_settings(tmp_path).chain.rpc_urls == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway]\nprot = 1\n", "config.toml: gateway.prot is no setting; did you mean gateway.port?"),
        ("[gatway]\nport = 1\n", "config.toml: gatway is no setting"),
        ('[gateway]\nport = "x"\n', "config.toml: gateway.port is 'x': input should be a valid integer"),
        ("[gateway]\nport = 70000\n", "config.toml: gateway.port is 70000: input should be less than or equal to"),
        ("[node]\nwallet = '../x'\n", "config.toml: node.wallet is '../x': "),
        (
            "[[node.services]]\nnam = 'x'\n",
            "config.toml: node.services.0.nam is no setting; did you mean node.services.0.name?",
        ),
        ("[[node.services]]\n", "config.toml: node.services.0.name is missing"),
        ("[node\n", "config.toml is no TOML: "),
    ],
)
def test_wrong_setting_in_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    """Whatever is wrong is told with its place, its value and the nearest key, in one line."""
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("STEELYARD_GATEWAY__PROT", "STEELYARD_GATEWAY__PROT is no setting; did you mean STEELYARD_GATEWAY__PORT?"),
        ("STEELYARD_GATEWAY_PORT", "STEELYARD_GATEWAY_PORT is no setting; did you mean STEELYARD_GATEWAY__PORT?"),
        ("STEELYARD_HOM", "STEELYARD_HOM is no setting; did you mean STEELYARD_HOME?"),
        ("STEELYARD_GATEWAY__PORT", "STEELYARD_GATEWAY__PORT is 'x': "),
    ],
)
def test_wrong_variable_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    """A misspelt variable is not passed over in silence."""
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert message in caught.value.message


def test_other_variables_of_ours_are_no_settings_and_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases, the base URL and what tests set are not taken for settings."""
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "BASE_URL", "API_KEY", "TEST_CHAINS", "HOME"):
        monkeypatch.setenv(f"STEELYARD_{name}", "x")
    load_settings(tmp_path)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """A password in a URL and an upstream's key are hidden by `config show` and in error messages."""
    write(
        tmp_path,
        '[gateway]\ndatabase = "postgresql://me:canary@db/x"\n[[node.services]]\nname = "a"\napi_key = "canary"\n',
    )
    shown = str(show_settings(load_settings(tmp_path)))
    assert "canary" not in shown
    assert "postgresql://me:********@db/x" in shown
    write(tmp_path, '[[node.services]]\nname = "a"\napi_key = ["canary"]\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert "canary" not in caught.value.message


def test_hidden_password_keeps_the_rest_of_the_url() -> None:
    """Host, port, user and path stay readable."""
    assert hide_password("postgresql://u:p@[::1]:5/n?key=v") == "postgresql://u:********@[::1]:5/n?********"
    assert hide_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize(("section", "room"), [(GatewaySection, GatewaySettings), (NodeSection, NodeSettings)])
def test_sections_have_every_setting_of_their_room_with_its_default(section: Any, room: Any) -> None:
    """What a gateway or a node can be told can be set, and nothing is told differently by default."""
    ours, theirs = section(), room()
    for field in fields(room):
        said, default = getattr(ours, field.name), getattr(theirs, field.name)
        assert said == default or (not said and not default), field.name
