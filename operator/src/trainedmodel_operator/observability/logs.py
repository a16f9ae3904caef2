"""Logs: one structured line for each decision, on standard error.

Lines of the operator and of its libraries (kopf uses `logging`) pass one formatter, so a reader
needs one parser. kopf logs its internal steps at INFO, so only its warnings are kept. They name the
library and, where there is one, the object.

The fields are the same everywhere:

    event        the name, in snake_case: a noun and a past participle, or a state
    key          the service (namespace/name)
    model        the model (namespace/name)
    revision     the desired revision
    reason       a Reason of the contract
    error        the cause of a failure, in words
    error_type   the cause of a failure, as metrics count it (`ApiError.cause`)
    detail       an explanation of a decision that is not a failure

A pass that changes nothing writes no line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import structlog

from trainedmodel_operator.settings import Settings

_QUIET = ("kopf", "asyncio", "aiohttp.access", "kubernetes")


def configure_logs(settings: Settings) -> None:
    """Route structlog and logging to standard error in the configured format."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor]
    if settings.log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # never the values of variables
            )
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _add_object, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _add_object(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Add the name of the object that a line of kopf is about."""
    about = getattr(event.get("_record"), "k8s_ref", None)
    if isinstance(about, Mapping) and about.get("name"):
        event["object"] = "/".join(filter(None, (about.get("namespace"), about["name"])))
    return event
