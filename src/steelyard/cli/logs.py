"""What processes log: one JSON object a line on standard error, no prompts, no answers, no keys.

An exception that is not ours may hold any of these in its message, so its type and its frames are all that is told.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any


def configure_logs(*, is_verbose: bool = False, is_quiet: bool = False) -> None:
    """Send every log line of this process to standard error; quiet: warnings and worse alone."""
    import logging

    import structlog

    level = logging.DEBUG if is_verbose else logging.WARNING if is_quiet else logging.INFO

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _tell_exception,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _tell_exception(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    from steelyard.gateway.crashes import describe_crash

    told = event.pop("exc_info", None)
    error = told if isinstance(told, BaseException) else sys.exc_info()[1] if told else None
    return event if error is None else {**event, **describe_crash(error)}
