"""The settings file of a network's home: the plan's ports and services, and whatever its owner changed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from steelyard.cli.genesis import ServicePlan
from steelyard.cli.local_network import NetworkPlan, merge_config, prepare_home, render_config
from steelyard.cli.settings_file import CONFIG_FILE, load_settings
from steelyard.errors import ConfigError

ECHO = ServicePlan(name="echo", kind="echo", manifest=b"{}", grade=0, price_in=1, price_out=1, options={"a": "b"})


def plan(home: Path, http_port: int = 1002) -> NetworkPlan:
    """Return a plan with one service."""
    return NetworkPlan(
        home=home, services=[ECHO], gateway={"max_calls": 5}, chain_port=1001, http_port=http_port, link_port=1003
    )


def test_settings_of_a_new_home_are_the_plans(tmp_path: Path) -> None:
    """Ports, services with their options, and the seed."""
    seed = prepare_home(plan(tmp_path))
    settings = load_settings(tmp_path)
    assert (settings.chain.port, settings.chain.rpc_urls) == (1001, ("http://127.0.0.1:1001",))
    assert (settings.gateway.port, settings.gateway.link_port, settings.gateway.max_calls) == (1002, 1003, 5)
    (service,) = settings.node.services
    assert (service.name, service.options) == ("echo", {"a": "b"})
    assert prepare_home(plan(tmp_path)) == seed


def test_what_the_owner_changed_is_kept(tmp_path: Path) -> None:
    """Settings, services and, while the ports stay, even comments; new ports are written."""
    prepare_home(plan(tmp_path))
    file = tmp_path / CONFIG_FILE
    mine = """
[[node.services]]
name = "mine"
base_url = "http://127.0.0.1:8000/v1"
api_key = "ключ \\"quoted\\""
# mine
"""
    file.write_text(file.read_text().replace("[gateway]", "[gateway]\nserves_cors = false\ngrace_s = 7.5") + mine)
    before = file.read_text()
    prepare_home(plan(tmp_path))
    assert file.read_text() == before
    prepare_home(plan(tmp_path, http_port=2002))
    settings = load_settings(tmp_path)
    assert (settings.gateway.port, settings.gateway.serves_cors, settings.gateway.grace_s) == (2002, False, 7.5)
    assert [service.name for service in settings.node.services] == ["echo", "mine"]
    assert settings.node.services[1].api_key.get_secret_value() == 'ключ "quoted"'


def test_rendered_settings_read_back_as_they_were(tmp_path: Path) -> None:
    """What is written is TOML of the same values."""
    config = merge_config(plan(tmp_path), {"blobs": {"dir": "elsewhere"}})
    assert tomllib.loads(render_config(config)) == config


def test_home_of_another_network_is_left_alone(tmp_path: Path) -> None:
    """Settings that somebody wrote by hand are not taken over."""
    (tmp_path / CONFIG_FILE).write_text("[gateway]\nport = 1\n")
    with pytest.raises(ConfigError, match="belongs to another network"):
        prepare_home(plan(tmp_path))
    assert (tmp_path / CONFIG_FILE).read_text() == "[gateway]\nport = 1\n"
