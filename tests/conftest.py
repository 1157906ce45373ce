"""Profiles for hypothesis: `ci` is the default, `nightly` looks ten times longer."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("ci", max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=_CHECKS)
settings.register_profile(
    "nightly", max_examples=250, stateful_step_count=60, deadline=None, suppress_health_check=_CHECKS
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
