"""docs/spec/contracts.md names every function, event, error, role and reason as the contracts do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.contracts.test_artifacts import CONTRACTS, OURS, PARTS
from tests.contracts.world import DRAWER, GATEWAY, MINTER, PROVIDER, SKIPS, SLASHER, VALIDATOR, World

from steelyard.chain.artifacts import ContractName, load_artifact

PAGE = (Path(__file__).parents[2] / "docs/spec/contracts.md").read_text()
FLAT = re.sub(r"\s+", " ", PAGE)
CONSTANTS = {"PROVIDER", "GATEWAY", "VALIDATOR"}
OVERRIDES = {"decimals", "clock", "CLOCK_MODE", "nonces"}  # the token's, which OpenZeppelin's own pages describe


def own_source(name: ContractName) -> str:
    """Return the sources that make up a contract, less OpenZeppelin's."""
    return "".join((CONTRACTS / f"src/{part}.sol").read_text() for part in PARTS[name])


@pytest.mark.parametrize("name", OURS)
def test_spec_names_every_function_with_its_parameters(name: ContractName) -> None:
    """Each function of ours that changes anything stands there as it is called; each view by name."""
    source = own_source(name)
    for entry in load_artifact(name).abi:
        function = entry.get("name")
        if entry["type"] != "function" or not re.search(rf"function {function}\(|public( \w+)* {function}\b", source):
            continue
        if function in CONSTANTS | OVERRIDES:
            continue
        if entry["stateMutability"] in ("view", "pure"):
            assert f"`{function}(" in PAGE, f"{name}.{function} is not in the page"
            continue
        parameters = [part["name"] + "".join(re.findall(r"\[\d*\]", part["type"])) for part in entry["inputs"]]
        assert f"`{function}({', '.join(parameters)})" in FLAT, f"{name}.{function}({', '.join(parameters)})"


@pytest.mark.parametrize("name", OURS)
def test_spec_names_every_event_with_its_fields(name: ContractName) -> None:
    """Each event of ours stands there with its fields in order."""
    source = own_source(name)
    for entry in load_artifact(name).abi:
        if entry["type"] == "event" and f"event {entry['name']}(" in source:
            fields = ", ".join(part["name"] for part in entry["inputs"])
            assert f"`{entry['name']}({fields})`" in FLAT, f"{entry['name']}({fields})"


@pytest.mark.parametrize("name", OURS)
def test_spec_names_every_error(name: ContractName) -> None:
    """Each error of ours stands there."""
    for error in re.findall(r"error (\w+)\(", own_source(name)):
        assert f"`{error}`" in PAGE, error


def test_spec_numbers_every_skip_reason() -> None:
    """The reasons have the numbers of the contract's enum, which tests decode by too."""
    source = (CONTRACTS / "src/Escrow.sol").read_text()
    inside = source[source.index("enum Skip {") :]
    reasons = re.findall(r"^\s+(\w+)(?:,|\s*//|$)", inside[inside.index("{") + 1 : inside.index("}")], re.MULTILINE)
    assert tuple(reasons) == SKIPS
    for number, reason in enumerate(reasons[1:], start=1):
        assert f"| {number} | `{reason}` |" in PAGE


def test_spec_numbers_every_role(world: World) -> None:
    """Stakers' roles and the manager's have the numbers that are used."""
    for name, number in (("PROVIDER", PROVIDER), ("GATEWAY", GATEWAY), ("VALIDATOR", VALIDATOR)):
        assert world.registry.call(name) == number
    assert "1 provider, 2 gateway, 3 validator" in PAGE
    for number, role in ((0, "admin"), (MINTER, "minter"), (SLASHER, "slasher"), (DRAWER, "drawer")):
        assert f"| {number} | {role} |" in PAGE
