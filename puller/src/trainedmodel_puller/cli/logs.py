"""Logs: one structured line for each decision, on standard error.

Lines of the puller and of libraries have one format, so one parser reads them all. A line leaves in
one write: two writers, such as a thread and the event loop, never share a line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from trainedmodel_puller.core.secrets import without_queries


def configure_logging(form: str, level: str) -> None:
    """Send the lines of the puller and of libraries to standard error.

    Args:
        form: `json` for one object a line, or `console`.
        level: The lowest level that is written; libraries write no less than warnings.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # never the values of variables
        )
    )
    last: list[Processor] = [structlog.processors.format_exc_info, _cut_queries, renderer]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _cut_queries(_: Any, __: str, event: EventDict) -> EventDict:
    """Cut the queries of addresses from a line, tracebacks included: they may be signatures."""
    for key, value in event.items():
        if isinstance(value, str) and "?" in value:
            event[key] = without_queries(value)
    return event
