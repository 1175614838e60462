"""Logging: one event a line on stderr, from structlog and from libraries alike."""

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

# Processors of both kinds of event: ours, and those that libraries send to the logging module.
_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]

# Loggers of the libraries that report unreadable requests.
_GRPC, _HTTP = "grpc._cython.cygrpc", "aiohttp.server"


def configure_logging(
    *,
    format: Literal["json", "console"] | None = None,  # noqa: A002 - the name of the setting
    level: str = "info",
) -> None:
    """Send every log event of this process to stderr.

    Args:
        format: Lines for a program or for a person; None chooses ``console`` if stderr is a
            terminal.
        level: Lowest level that is logged: debug, info, warning, error or critical.
    """
    rendering = _rendering(format or ("console" if sys.stderr.isatty() else "json"))
    # Directly to stderr: through the logging module an event takes three times as long.
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
    quieten_libraries()
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def quieten_libraries() -> None:
    """Keep libraries from logging callers' mistakes as errors, with tracebacks and bytes.

    Any caller can send malformed requests, and their bytes may hold a mistyped token.
    """
    for name in (_GRPC, _HTTP):
        logging.getLogger(name).addFilter(_without_bytes)


def _without_bytes(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if record.name == _GRPC and str(record.msg).startswith("ExecuteBatchError raised in core"):
        # The caller disconnected during the response; the event rpc_finished reports this.
        return False
    if record.name == _GRPC and str(record.msg).startswith("Invalid encoding"):
        record.msg, record.args = "a header that is no UTF-8", ()
    elif record.name == _HTTP and type(error).__module__ == "aiohttp.http_exceptions":
        record.msg, record.args = "a request that is no HTTP: %s", (type(error).__name__,)
    else:
        return True
    record.exc_info, record.exc_text = None, None
    record.levelno, record.levelname = logging.INFO, "INFO"
    return logging.getLogger().isEnabledFor(logging.INFO)


class _Lines:
    """Sink of structlog's finished lines; drops a line that cannot be written.

    Attributes:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = _write


# Names a logger without a name after the module that logs first.
_named = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])


def _lines(*name: str) -> _Lines:
    return _Lines(_named(*name).name)


def _redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Remove secrets from a traceback, which ends in an external message."""
    if "exception" in event:
        event["exception"] = redact(event["exception"])
    return event


def _rendering(log_format: Literal["json", "console"]) -> list[Processor]:
    # Plain tracebacks in both formats: the richer ones print local variables, and so secrets.
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
    except TypeError:  # Text that is not Unicode, or a number of more than 64 bits.
        return json.dumps(event, default=str)
