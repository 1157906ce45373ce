"""The two EVMs that contract tests run on, each deployed once per process and put back before each test.

STEELYARD_TEST_EVMS=pyevm (or anvil) narrows them, for a quick run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.contracts.anvil import Anvil, find_anvil
from tests.contracts.evm import Evm
from tests.contracts.pyevm import PyEvm
from tests.contracts.world import World

KINDS = os.environ.get("STEELYARD_TEST_EVMS", "pyevm,anvil").split(",")


def open_evm(kind: str) -> Evm:
    """Start an EVM of a kind; skips the test where anvil is missing."""
    if kind == "pyevm":
        return PyEvm()
    binary = find_anvil()
    if binary is None:
        pytest.skip("anvil is missing: run `npm ci` in contracts/ (needs Node.js)")
    return Anvil(binary)


@pytest.fixture(scope="session", params=KINDS)
def deployed(request: pytest.FixtureRequest) -> Iterator[World]:
    """A deployment on each kind of EVM, for tests that put it back themselves."""
    evm = open_evm(request.param)
    try:
        yield World(evm)
    finally:
        evm.close()


@pytest.fixture
def world(deployed: World) -> World:
    """A fresh deployment."""
    deployed.reset()
    return deployed
