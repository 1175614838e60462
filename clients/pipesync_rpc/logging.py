"""Logs: one event a line on stderr, from structlog and from libraries alike."""

import logging
import logging.config
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pipesync_rpc.redaction import redact

# What both kinds of event go through: ours, and those that libraries send to the logging module.
_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure_logging(
    *,
    format: Literal["json", "console"] | None = None,  # noqa: A002 - what its users call it
    level: str = "info",
) -> None:
    """Sends every log event of this process to stderr.

    Args:
        format: Lines for a program or for a person; None decides by whether stderr is a terminal.
        level: The least level that is logged: debug, info, warning, error or critical.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(format or ("console" if sys.stderr.isatty() else "json")),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def _redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Takes secrets out of a traceback: it ends in words that are not ours."""
    if "exception" in event:
        event["exception"] = redact(event["exception"])
    return event


def _rendering(log_format: Literal["json", "console"]) -> list[Processor]:
    # Tracebacks are plain text in both: the richer forms print local variables, and so secrets.
    if log_format == "console":
        return [
            structlog.processors.format_exc_info,
            _redact,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    return [
        structlog.processors.format_exc_info,
        _redact,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]
