"""Logs: one event a line on stderr, from structlog and from libraries alike."""

import contextlib
import json
import logging
import logging.config
import sys
from typing import Any, Literal

import orjson
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
    rendering = _rendering(format or ("console" if sys.stderr.isatty() else "json"))
    # Straight to stderr: by way of the logging module an event would take three times as long.
    structlog.configure(
        processors=[*_SHARED, *rendering],
        logger_factory=_lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


class _Lines:
    """What structlog hands finished lines to; one that cannot be written is dropped.

    Attributes:
        name: Of the logger.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = _write


# A logger that was not given a name has that of the module which logs first.
_named = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])


def _lines(*name: str) -> _Lines:
    return _Lines(_named(*name).name)


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
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _json(event: EventDict, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except TypeError:  # Text that is no Unicode, or a number of more than 64 bits.
        return json.dumps(event, default=str)
