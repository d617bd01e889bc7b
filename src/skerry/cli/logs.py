"""Log lines of parts that log, for the few commands that run such parts.

Standard output belongs to a command's result, so they go to standard error: short on a terminal,
one JSON object per line otherwise. SKERRY_LOG=debug shows more.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog


def log_to_stderr(level: str = "info") -> None:
    """Send events of this process to standard error from `level` up."""
    chosen = os.environ.get("SKERRY_LOG", level).upper()
    number = logging.getLevelNamesMapping().get(chosen, logging.INFO)
    last: structlog.typing.Processor
    if sys.stderr.isatty():
        last = structlog.dev.ConsoleRenderer(pad_event_to=0)
        last_but_one = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    else:
        last = structlog.processors.JSONRenderer()
        last_but_one = structlog.processors.TimeStamper(fmt="iso", utc=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            last_but_one,
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
