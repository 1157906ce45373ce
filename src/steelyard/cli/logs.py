"""What processes log: one JSON object a line on standard error, no prompts, no answers, no keys."""

from __future__ import annotations

import sys


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
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
