"""Messages get an origin and a time, and connectors' logs are copied to the engine's log."""

import time

import pytest
from structlog.testing import capture_logs

from engine_server.stages.annotate_and_log import annotate_and_log
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import DeadLetter
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import checkpoint, log


async def test_a_message_without_an_origin_gets_origin_and_time() -> None:
    before = time.time_ns()
    (message,) = await gathered(annotate_and_log(given(checkpoint("a")), "source/x"))
    assert message.emitted_by == "source/x"
    assert before <= message.ts.ToNanoseconds() <= time.time_ns()


async def test_an_existing_origin_and_time_are_kept() -> None:
    message = checkpoint("a")
    message.emitted_by = "source/x"
    message.ts.FromSeconds(5)
    (annotated,) = await gathered(annotate_and_log(given(message), "destination/y"))
    assert annotated.emitted_by == "source/x"
    assert annotated.ts.ToSeconds() == 5


async def test_all_messages_pass_and_only_logs_are_logged() -> None:
    line = log("page fetched", records=3.0, stream="a")
    line.emitted_by = "source/x"
    messages = [checkpoint("a"), line]
    with capture_logs() as logs:
        assert await gathered(annotate_and_log(given(*messages), "source/x")) == messages
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
        await gathered(annotate_and_log(given(log("x", level)), ""))
    assert [entry["log_level"] for entry in logs] == [logged_as]


async def test_logs_of_another_connector_are_not_logged() -> None:
    line = log("page fetched")
    line.emitted_by = "source/x"
    with capture_logs() as logs:
        assert await gathered(annotate_and_log(given(line), "destination/y")) == [line]
    assert logs == []


async def test_a_dead_letter_is_logged_as_an_error() -> None:
    letter = DeadLetter(
        event_id="evt_1", event_type="customer.updated", attempt_count=5, reason="refused"
    )
    message = Message(emitted_by="source/x", dead_letter=letter)
    with capture_logs() as logs:
        assert await gathered(annotate_and_log(given(message), "source/x")) == [message]
        assert await gathered(annotate_and_log(given(message), "destination/y")) == [message]
    [line] = logs
    assert (line["event"], line["log_level"]) == ("event_dead_lettered", "error")
    assert (line["event_id"], line["attempts"], line["error"]) == ("evt_1", 5, "refused")
