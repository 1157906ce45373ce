"""A node's own terms: what it may not choose."""

from __future__ import annotations

import pytest

from steelyard.errors import ConfigError
from steelyard.node.settings import NodeSettings


@pytest.mark.parametrize("region", ["EU", "eu west", "-eu", "eu-", "e" * 33, "eu_west"])
def test_region_that_buyers_could_not_ask_for_is_refused(region: str) -> None:
    """The refusal names the setting and shows how a region is written."""
    with pytest.raises(ConfigError, match=r"node\.region.*eu-west-1"):
        NodeSettings(region=region)


def test_region_that_is_well_formed_is_kept() -> None:
    """One part or several."""
    assert [NodeSettings(region=region).region for region in ("", "eu", "eu-west-1")] == ["", "eu", "eu-west-1"]
