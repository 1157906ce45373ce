"""Gas: the limits of the issue, and the committed table, to the unit on both EVMs."""

from __future__ import annotations

import os

import pytest
from tests.contracts.gas_table import GAS_PAGE, LIMITS, Table, load_table, measure, render, vouchers_in, write_table
from tests.contracts.world import World


@pytest.fixture(scope="session")
def measured(deployed: World) -> Table:
    """Every transaction of the table, run on one EVM."""
    table = measure(deployed)
    if os.environ.get("STEELYARD_WRITE_GAS") and deployed.evm.kind == "pyevm":
        write_table(table)
    return table


@pytest.mark.parametrize("row", LIMITS)
def test_gas_of_redemption_stays_within_its_limit(measured: Table, row: str) -> None:
    """A voucher costs no more than the issue allows, whoever pays whom for what."""
    assert measured[row] / vouchers_in(row) <= LIMITS[row]


def test_gas_of_everything_is_as_committed(measured: Table) -> None:
    """A change of gas is seen, and committed on purpose; py-evm and anvil agree on it."""
    committed = load_table()
    changed = {row: (committed.get(row), gas) for row, gas in measured.items() if committed.get(row) != gas}
    assert not changed, "run with STEELYARD_WRITE_GAS=1 if this is meant: (committed, measured)"
    assert list(committed) == list(measured)


def test_gas_page_shows_the_committed_table() -> None:
    """contracts/GAS.md is the JSON beside it, for people."""
    assert GAS_PAGE.read_text() == render(load_table())
