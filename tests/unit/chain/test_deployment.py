"""Deployment files and parameters: whole or refused, with the field that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steelyard.chain.deployment import Deployment
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.reward_terms import RewardTerms
from steelyard.errors import ConfigError
from steelyard.protocol.signing import Domain

DEPLOYMENT = Deployment(
    chain_id=31415,
    salt=b"\x01" * 32,
    manager=b"\x02" * 20,
    yard=b"\x03" * 20,
    registry=b"\x04" * 20,
    escrow=b"\x05" * 20,
    ledger=b"\x06" * 20,
    court=b"\x07" * 20,
    proofs=b"\x08" * 20,
    rewards=b"\x09" * 20,
    block=7,
    epoch_s=60,
    withdraw_delay_s=600,
    unbond_delay_s=3600,
    is_development=True,
)


def test_deployment_json_comes_back_the_same(tmp_path: Path) -> None:
    """What is saved is loaded, and gives the domain that messages are signed under."""
    path = tmp_path / "network" / "deployment.json"
    DEPLOYMENT.save(path)
    assert Deployment.load(path) == DEPLOYMENT
    assert Deployment.parse(replace(DEPLOYMENT, is_development=False).to_json()).is_development is False
    assert DEPLOYMENT.domain == Domain(31415, b"\x01" * 32)
    assert json.loads(path.read_text())["escrow"] == "0x" + "05" * 20


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("escrow", "0x05", "escrow must be 0x and 40 hex digits"),
        ("escrow", None, "escrow must be"),
        ("salt", "0x" + "zz" * 32, "salt must be"),
        ("chain_id", "31415", "chain_id must be a whole number"),
        ("chain_id", True, "chain_id must be a whole number"),
        ("block", -1, "block must be a whole number"),
        ("development", 1, "development must be true or false"),
        ("format", 1, "made by an earlier version.* begin a new network"),
        ("format", 2, "made by an earlier version.* begin a new network"),
        ("format", 4, "no deployment file of format 3"),
        ("extra", 1, "lacks or has too much: extra"),
    ],
)
def test_deployment_bad_field_is_named(field: str, value: Any, words: str) -> None:
    """A wrong field is named with its value, and nothing of the file is used."""
    content = json.loads(DEPLOYMENT.to_json())
    content[field] = value
    with pytest.raises(ConfigError, match=words):
        Deployment.parse(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{"])
def test_deployment_no_such_json_is_refused(text: str) -> None:
    """Any other text is refused."""
    with pytest.raises(ConfigError):
        Deployment.parse(text)


def test_deployment_missing_field_is_named() -> None:
    """A missing field is named."""
    content = json.loads(DEPLOYMENT.to_json())
    del content["ledger"]
    with pytest.raises(ConfigError, match="lacks or has too much: ledger"):
        Deployment.parse(json.dumps(content))


def test_deployment_missing_file_names_the_command(tmp_path: Path) -> None:
    """A missing file says how a network is started."""
    with pytest.raises(ConfigError, match="steelyard up"):
        Deployment.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch_s": 0}, "at least one second"),
        ({"withdraw_delay_s": -5}, "at least one second"),
        ({"unbond_delay_s": 600}, "longer than withdraw_delay_s"),
        ({"unbond_delay_s": 2_340}, "longer than the 2340 s"),
        ({"min_stakes_nano": (1, -1, 1)}, "none below zero"),
        ({"min_stakes_nano": (1, 1)}, "three amounts"),
        ({"initial_supply_nano": 2**128}, "initial_supply_nano"),
        ({"treasury": b"\x00" * 20}, "treasury is no account"),
        ({"admin": b"\x01"}, "admin is no account"),
        ({"rewards": RewardTerms(challenge_s=3_600)}, "longer than rewards.challenge_s"),
        ({"salt": b"\x01"}, "salt must be 32 bytes"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    """A parameter that would make an unsafe or impossible deployment is refused by name."""
    with pytest.raises(ConfigError, match=words):
        replace(DeploymentParameters(), **change)
