"""What connectors log reaches the engine's log, and goes on."""

import pytest
from structlog.testing import capture_logs

from engine_server.stages.tap_log import tap_log
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import DeadLetter
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import checkpoint, log


async def test_everything_passes_and_only_logs_are_logged() -> None:
    line = log("page fetched", records=3.0, stream="a")
    line.emitted_by = "source/x"
    messages = [checkpoint("a"), line]
    with capture_logs() as logs:
        assert await gathered(tap_log(given(*messages), "source/x")) == messages
    assert logs == [
        {
            "event": "connector_log",
            "log_level": "info",
            "emitted_by": "source/x",
            "message": "page fetched",
            "data": {"records": 3.0, "stream": "a"},
        }
    ]


@pytest.mark.parametrize(
    ("level", "logged_as"),
    [
        (Log.LEVEL_UNSPECIFIED, "info"),
        (Log.LEVEL_DEBUG, "debug"),
        (Log.LEVEL_INFO, "info"),
        (Log.LEVEL_WARN, "warning"),
        (Log.LEVEL_ERROR, "error"),
    ],
)
async def test_levels_are_kept(level: Log.Level.ValueType, logged_as: str) -> None:
    with capture_logs() as logs:
        await gathered(tap_log(given(log("x", level)), ""))
    assert [entry["log_level"] for entry in logs] == [logged_as]


async def test_what_another_connector_logged_is_left_to_its_own_tap() -> None:
    line = log("page fetched")
    line.emitted_by = "source/x"
    with capture_logs() as logs:
        assert await gathered(tap_log(given(line), "destination/y")) == [line]
    assert logs == []


async def test_an_event_that_is_given_up_is_an_error_in_the_log() -> None:
    letter = DeadLetter(
        event_id="evt_1", event_type="customer.updated", attempt_count=5, reason="refused"
    )
    message = Message(emitted_by="source/x", dead_letter=letter)
    with capture_logs() as logs:
        assert await gathered(tap_log(given(message), "source/x")) == [message]
        assert await gathered(tap_log(given(message), "destination/y")) == [message]
    [line] = logs
    assert (line["event"], line["log_level"]) == ("event_dead_lettered", "error")
    assert (line["event_id"], line["attempts"], line["error"]) == ("evt_1", 5, "refused")
