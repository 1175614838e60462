"""Syncs with failing connectors keep their state and expose no secret."""

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
    StreamProgress,
)
from pipesync.v1.state_pb2 import Eof
from tests.engine_server.engine import ScriptedEngine
from tests.engine_server.reads import given, then_raises
from tests.engine_server.scripted import at_once
from tests.messages import checkpoint, completed, errored, record_batch, skipped, started

COMPLETED = StreamProgress.STATUS_COMPLETED
ERRORED = StreamProgress.STATUS_ERRORED
PAGE = (started("a"), record_batch("a", b'{"id": 1}'), checkpoint("a", '{"pages": 1}'))
SECRET = "sk_live_hunter2"


def assert_failed_with_its_state(engine: ScriptedEngine, eof: Eof) -> None:
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.has_more
    assert eof.ending_state.source.streams == {"a": '{"pages": 1}'}
    assert engine.destination.committed == {"a": [b'{"id": 1}']}
    assert engine.source.closed.is_set()
    assert engine.destination.closed.is_set()


async def assert_engine_works(engine: ScriptedEngine) -> None:
    """Assert that the next sync succeeds."""
    engine.holds({"a": [[b'{"id": 2}']]})
    engine.destination.before_commit = at_once
    assert (await engine.batch()).status == RUN_STATUS_SUCCEEDED


def raises_after(commits: int, error: Exception) -> Iterator[None]:
    yield from [None] * commits
    raise error


async def test_an_exception_of_a_source_keeps_its_records_and_hides_its_text(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", read=then_raises(ValueError(f"bad key {SECRET}"), *PAGE))
    engine.destination.commit_every = 100
    with capture_logs() as logs:
        messages = await engine.sync()
    eof = messages[-1].eof
    assert_failed_with_its_state(engine, eof)
    assert eof.failure_message == (
        "source/scripted stopped unexpectedly (ValueError); the engine's log has the details"
    )
    assert not any(SECRET in str(message) for message in messages)
    assert [(entry["event"], entry["exc_info"]) for entry in logs if "exc_info" in entry] == [
        ("connector_threw", True)
    ]
    await assert_engine_works(engine)


async def test_the_message_of_a_source_error_is_the_failure_message(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_raises(ConnectorError("the cursor is too old"), *PAGE))
    eof = await engine.batch()
    assert_failed_with_its_state(engine, eof)
    assert eof.failure_message == "the cursor is too old"


async def test_an_unreachable_source_is_a_failed_connection(engine: ScriptedEngine) -> None:
    engine.offers("a", read=then_raises(ConnectionFailed("the API refused the key"), *PAGE))
    eof = await engine.batch(run_id="r1")
    assert_failed_with_its_state(engine, eof)
    assert not eof.failure_message
    assert eof.run_progress.connection_status.status == ConnectionStatus.STATUS_FAILED
    assert eof.run_progress.connection_status.message == "the API refused the key"
    engine.holds({"a": [[b'{"id": 1}'], [b'{"id": 2}']]})
    again = await engine.batch(run_id="r1", state=eof.ending_state)
    assert again.status == RUN_STATUS_SUCCEEDED
    assert engine.destination.committed["a"] == [b'{"id": 1}', b'{"id": 2}']


@pytest.mark.parametrize(
    ("error", "failure_message", "connection_message"),
    [
        pytest.param(
            RuntimeError(SECRET),
            "destination/scripted stopped unexpectedly (RuntimeError);"
            " the engine's log has the details",
            "",
            id="it throws",
        ),
        pytest.param(ConnectorError("the disk is full"), "the disk is full", "", id="it says why"),
        pytest.param(ConnectionFailed("no route"), "", "no route", id="it is out of reach"),
    ],
)
async def test_a_destination_that_fails_keeps_its_committed_records(
    engine: ScriptedEngine, error: Exception, failure_message: str, connection_message: str
) -> None:
    commits = raises_after(len(PAGE), error)

    async def before_commit() -> None:
        next(commits)

    engine.offers("a", read=given(*PAGE, record_batch("a", b"{}"), checkpoint("a", "2")))
    engine.destination.before_commit = before_commit
    with capture_logs():
        eof = await engine.batch()
    assert_failed_with_its_state(engine, eof)
    assert eof.failure_message == failure_message
    assert eof.run_progress.connection_status.message == connection_message
    await assert_engine_works(engine)


async def test_a_failing_sync_does_not_affect_another_one(engine: ScriptedEngine) -> None:
    may_end = asyncio.Event()

    async def waits(request: ReadRequest) -> Messages:
        yield started("a")
        await may_end.wait()
        yield completed("a")

    engine.offers("a", read=waits)
    other = asyncio.create_task(engine.batch())
    await engine.source.reading.wait()
    engine.source.read = then_raises(RuntimeError("it broke"), *PAGE)
    with capture_logs():
        assert (await engine.batch()).status == RUN_STATUS_FAILED
    may_end.set()
    assert (await other).status == RUN_STATUS_SUCCEEDED


async def test_a_refused_stream_stays_errored_and_the_others_continue(
    engine: ScriptedEngine,
) -> None:
    """The source ignores the refusal, and completes the stream."""
    engine.offers(
        "a",
        "b",
        read=given(
            started("a"),
            record_batch("a", b"{}"),
            checkpoint("a", "1"),
            started("b"),
            record_batch("b", b"{}"),
            checkpoint("b", "1"),
            completed("a"),
            completed("b"),
        ),
    )
    engine.destination.refuses = frozenset({"a"})
    messages = await engine.sync()
    eof = messages[-1].eof
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.has_more
    assert not eof.failure_message
    assert eof.run_progress.streams["a"].status == ERRORED
    assert eof.run_progress.streams["a"].message == "a was refused"
    assert eof.run_progress.streams["b"].status == COMPLETED
    assert eof.ending_state.source.streams == {"b": "1"}
    assert engine.destination.committed == {"b": [b"{}"]}
    told = [message for message in messages if message.stream_status.HasField("errored")]
    assert [message.emitted_by for message in told] == ["destination/scripted"]
    assert told[0].ts.seconds > 0
    assert (await engine.batch()).status == RUN_STATUS_FAILED


async def test_a_refused_stream_is_read_no_further(engine: ScriptedEngine) -> None:
    engine.holds({"a": [[b"{}"]] * 5, "b": [[b"{}"]] * 2})
    engine.destination.refuses = frozenset({"a"})
    eof = await engine.batch()
    assert engine.source.requests[0].errored_streams.names == {"a"}
    assert eof.run_progress.streams["b"].status == COMPLETED
    assert eof.ending_state.source.streams == {"b": '{"pages": 2}'}


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_looping_over_a_refused_stream_ends(engine: ScriptedEngine, limit: int) -> None:
    engine.holds({"a": [[b"{}"]] * 5, "b": [[b"{}"]] * 2})
    engine.destination.refuses = frozenset({"a"})
    ends = await engine.loop(state_limit=limit)
    progress = ends[-1].run_progress
    assert ends[-1].status == RUN_STATUS_FAILED
    assert {name: one.status for name, one in progress.streams.items()} == {
        "a": ERRORED,
        "b": COMPLETED,
    }


async def test_an_errored_stream_stays_out_of_a_continuation_and_is_read_by_a_new_run(
    engine: ScriptedEngine,
) -> None:
    engine.offers("a", "b", read=given(errored("a", "it broke"), completed("b")))
    first = await engine.batch(run_id="r1")
    assert first.status == RUN_STATUS_FAILED
    engine.holds({"a": [[b"{}"]], "b": []})
    again = await engine.batch(run_id="r1", state=first.ending_state)
    assert again.status == RUN_STATUS_FAILED
    assert again.run_progress.streams["a"].message == "it broke"
    assert len(engine.source.requests) == 1
    anew = await engine.batch(run_id="r2", state=again.ending_state)
    assert anew.status == RUN_STATUS_SUCCEEDED
    assert engine.destination.committed == {"a": [b"{}"]}


async def test_a_skipped_stream_is_no_failure(engine: ScriptedEngine) -> None:
    engine.offers("a", "b", read=given(skipped("a", "Issuing is not enabled"), completed("b")))
    eof = await engine.batch()
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.run_progress.streams["a"].message == "Issuing is not enabled"


async def test_unselected_streams_reach_neither_destination_nor_state(
    engine: ScriptedEngine,
) -> None:
    stray: list[Message] = [record_batch("b", b"{}"), checkpoint("b", "1"), completed("b")]
    engine.offers("a", read=given(*stray, *PAGE, completed("a")))
    eof = await engine.batch()
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert set(engine.destination.committed) == {"a"}
    assert set(eof.ending_state.source.streams) == {"a"}
    assert set(eof.run_progress.streams) == {"a"}
