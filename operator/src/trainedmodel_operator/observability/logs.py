"""Logs: one structured line for each decision, on standard error.

Our own lines and those of libraries (kopf speaks through `logging`) leave by one formatter, so that
whoever reads them needs one parser. kopf tells of its inner life at INFO; only its warnings are
news here, and they say which library speaks and, where it is about an object, which.

The words are the same everywhere: `event` what was decided or met, `key` the service, `model` the
model, `revision` what is to be served, `reason` why. A pass that changes nothing has no line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import structlog

from trainedmodel_operator.settings import Settings

_QUIET = ("kopf", "asyncio", "aiohttp.access", "kubernetes")


def configure_logs(settings: Settings) -> None:
    """Route structlog and logging to standard error in the format that was asked for."""
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
    """Say which object a line of kopf's is about."""
    about = getattr(event.get("_record"), "k8s_ref", None)
    if isinstance(about, Mapping) and about.get("name"):
        event["object"] = "/".join(filter(None, (about.get("namespace"), about["name"])))
    return event
