"""Profiles for hypothesis (`ci` is the default, `nightly` looks ten times longer); in CI nothing may skip.

Tests marked `nightly` take minutes and have a shorter sibling that always runs: only `make nightly` runs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("ci", max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=_CHECKS)
settings.register_profile(
    "nightly", max_examples=250, stateful_step_count=60, deadline=None, suppress_health_check=_CHECKS
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long proofs to the night."""
    if PROFILE == "nightly":
        return
    long = [item for item in items if item.get_closest_marker("nightly")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Turn a skip into a failure in CI, where every tool is installed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may skip: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _fresh_logs() -> None:
    """Begin with structlog's defaults: a command's own set-up would write to the stream of the test that ran it."""
    structlog.reset_defaults()
