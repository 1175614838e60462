"""Plugin of pytest that fails a test when a secret shows in a log, an answer or a database.

It searches every log event of the test's own process and every answer to a client of this project;
tests/processes.py adds the logs and output of programs, and the fixtures of databases their
contents.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import grpc.aio
import pytest
import structlog
from grpc.aio._channel import Channel
from structlog.testing import LogCapture

from pipesync_rpc.redaction import redact
from tests.leaks import leaks

_Deserializer = Callable[[bytes], Any]

_SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail the test for leaks; set up before every other fixture, so as to see their teardown."""
    leaks.take()
    _hear_events()
    yield
    found = leaks.take()
    if found:
        pytest.fail("secrets leaked:\n" + "\n".join(found), pytrace=False)


def pytest_configure() -> None:
    """Start to search logs, answers and errors."""
    _hear_events()
    _hear_captured_events()
    logging.getLogger().addHandler(_Ear())
    for shape in _SHAPES:
        _hear_answers(shape)
    _hear_errors()


def _hear_events() -> None:
    """Put the search before all other processors, even when an earlier test replaced them."""
    processors = structlog.get_config()["processors"]
    if _hear_event not in processors:
        structlog.configure(processors=[_hear_event, *processors])


def _hear_event(_: Any, method: str, event: structlog.typing.EventDict) -> Any:
    exc_info = event.get("exc_info") or method == "exception"
    fields = {name: value for name, value in event.items() if name != "exc_info"}
    leaks.search("a log event", str(fields))
    if exc_info:
        _search_traceback(exc_info if isinstance(exc_info, BaseException) else sys.exception())
    return event


def _search_traceback(exception: BaseException | None) -> None:
    # Exceptions of libraries may contain anything: the program removes secrets from their text.
    text = "".join(traceback.format_exception(exception))
    leaks.search("a traceback in a log", redact(text))


def _hear_captured_events() -> None:
    """Search captured events, too: ``capture_logs`` replaces all other processors by its own."""
    capture = LogCapture.__call__

    def heard(self: LogCapture, logger: Any, method: str, event: Any) -> Any:
        _hear_event(logger, method, event)
        return capture(self, logger, method, event)

    LogCapture.__call__ = heard  # type: ignore[assignment,method-assign]  # it returns no more than it did


class _Ear(logging.Handler):
    """Handler that searches the log records of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        """Search one record, with its traceback."""
        leaks.search(f"a log record of {record.name}", record.getMessage())
        if record.exc_info:
            _search_traceback(record.exc_info[1])


def _hear_answers(shape: str) -> None:
    make = getattr(Channel, shape)

    def heard(
        self: Channel,
        method: str,
        request_serializer: Any = None,
        response_deserializer: _Deserializer | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        if response_deserializer is not None and method.startswith("/pipesync."):
            response_deserializer = _heard(method, response_deserializer)
        return make(self, method, request_serializer, response_deserializer, *arguments, **options)

    setattr(Channel, shape, heard)


def _heard(method: str, deserialize: _Deserializer) -> _Deserializer:
    def heard(data: bytes) -> Any:
        answer = deserialize(data)
        if not _is_for_the_service(answer):
            leaks.search(f"an answer of {method}", data)
        return answer

    return heard


def _is_for_the_service(answer: Any) -> bool:
    """Return whether the engine hands a changed configuration to the service.

    The service keeps it secret.
    """
    return (
        answer.DESCRIPTOR.file.name == "pipesync/v1/engine_service.proto"
        and "message" in answer.DESCRIPTOR.fields_by_name
        and answer.message.HasField("control")
    )


def _hear_errors() -> None:
    make = grpc.aio.AioRpcError.__init__

    def heard(self: grpc.aio.AioRpcError, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        leaks.search("an error", self.details() or "")
        for key, value in self.trailing_metadata() or ():
            leaks.search(f"an error's {key}", value)

    grpc.aio.AioRpcError.__init__ = heard  # type: ignore[method-assign]  # of all tests' clients
