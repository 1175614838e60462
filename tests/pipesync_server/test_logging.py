"""Log output of a program."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import logging, warnings, structlog
from pipesync_rpc import context
from pipesync_server.logging import configure_logging
configure_logging(format={format!r}, level="info")
context.bind(request_id="r-1", pipeline_id="orders")
log = structlog.get_logger("room")
log.debug("too_small")
log.info("batch_written", stream="customers", rows=3, note="a\\nb")
logging.getLogger("library").warning("half of %s", "it", extra={{"attempt": 2}})
def fail():
    api_key = "sk_" + "live_secret"
    raise ValueError("what went wrong with " + api_key)
try:
    fail()
except ValueError:
    log.exception("failed")
"""


def lines_of(log_format: str | None) -> list[str]:
    """Return the program's stderr; asserts that its stdout is empty."""
    result = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", PROGRAM.format(format=log_format)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert result.stdout == ""
    assert "sk_live_secret" not in result.stderr
    return result.stderr.splitlines()


def test_json_has_one_event_a_line_with_the_identifiers() -> None:
    events: list[dict[str, Any]] = [json.loads(line) for line in lines_of("json")]
    assert [event["event"] for event in events] == ["batch_written", "half of it", "failed"]
    ours, library, failed = events
    assert ours["stream"] == "customers"
    assert ours["rows"] == 3
    assert ours["logger"] == "room"
    assert ours["level"] == "info"
    assert ours["timestamp"].endswith("Z")
    assert library["attempt"] == 2
    assert all(event["request_id"] == "r-1" for event in events)
    assert all(event["pipeline_id"] == "orders" for event in events)
    assert failed["exception"].endswith("ValueError: what went wrong with sk_live_***")


def test_without_a_terminal_the_default_is_json() -> None:
    assert json.loads(lines_of(None)[0])["event"] == "batch_written"


def test_the_console_has_no_colours_outside_a_terminal() -> None:
    lines = lines_of("console")
    assert "batch_written" in lines[0]
    assert "stream=customers" in lines[0]
    assert "\x1b" not in "".join(lines)
    assert "ValueError: what went wrong with sk_live_***" in lines[-1]


def test_a_logger_without_a_name_is_named_after_its_module() -> None:
    program = PROGRAM.format(format="json").replace('get_logger("room")', "get_logger()")
    result = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stderr.splitlines()[0])["logger"] == "__main__"


def test_values_without_a_json_form_are_logged() -> None:
    program = PROGRAM.format(format="json").replace('note="a\\nb"', "note=2**70, text=chr(0xDC00)")
    assert "2**70" in program
    result = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    event = json.loads(result.stderr.splitlines()[0])
    assert event["note"] == 2**70
    assert event["text"] == chr(0xDC00)


def test_a_program_continues_when_its_log_is_closed() -> None:
    program = PROGRAM.format(format="json") + "print('went on')"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, check=True
        )
    finally:
        os.close(writer)
    assert result.stdout == b"went on\n"


MALFORMED = """
import logging
from aiohttp.http_exceptions import BadHttpMessage
from pipesync_server.logging import configure_logging
configure_logging(format="json", level={level!r})
def tell(name, message, argument, error):
    try:
        raise error
    except Exception:
        logging.getLogger(name).exception(message, argument)
planted = "sk_" + "live_secret"
tell("grpc._cython.cygrpc", "Invalid encoding on %s", planted, ValueError())
tell("aiohttp.server", "Error handling request from %s", "::1", BadHttpMessage(planted))
tell("grpc._cython.cygrpc", "ExecuteBatchError raised in core by [%s]", "/a", OSError())
tell("aiohttp.server", "Error handling request from %s", "::1", KeyError("ours"))
"""


@pytest.mark.parametrize(("level", "count"), [("info", 3), ("warning", 1)])
def test_a_malformed_request_is_logged_without_its_bytes(level: str, count: int) -> None:
    # The libraries log malformed input: a header that is not UTF-8, a line that is not HTTP.
    result = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", MALFORMED.format(level=level)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "live" not in result.stderr
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [event["level"] for event in events] == ["info", "info", "error"][-count:]
    assert "KeyError: 'ours'" in events[-1]["exception"]
