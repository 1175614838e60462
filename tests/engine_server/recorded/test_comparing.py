"""Comparison with recorded checkpoints: concurrent read, limits, and failures."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.errors import ConnectionFailed, ConnectorError
from engine_server.sync.run.run import run_sync
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
)
from pipesync.v1.state_pb2 import SyncState
from tests.end_to_end.stripe_pipeline import seconds
from tests.engine_server.reads import pages, then_raises
from tests.engine_server.recorded.account import account
from tests.engine_server.recorded.conftest import RPCS, RecordingEngine, Rpc
from tests.engine_server.recorded.pipeline import ComparingSource, Pipeline, pipeline_of
from tests.messages import checkpoint, completed, record_batch, started, stream

DATASET = {"a": [[b'{"id":"1"}'], [b'{"id":"2"}']]}


@pytest.fixture
def engine(recording_engine: RecordingEngine) -> RecordingEngine:
    recording_engine.source.streams = [stream(name) for name in DATASET]
    recording_engine.source.read = pages(DATASET)
    return recording_engine


async def for_ever() -> None:
    await asyncio.Event().wait()


class Steps:
    """Read that records how far it got."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.has_started = asyncio.Event()

    async def read(self, request: ReadRequest) -> Messages:
        self.reached.append("begun")
        yield started("a")
        self.reached.append("started")
        self.has_started.set()
        yield record_batch("a", b'{"id":"1"}')
        self.reached.append("asked for more")
        yield checkpoint("a", '{"pages": 1}')
        yield completed("a")


async def test_the_source_is_read_up_to_its_first_data_during_a_comparison(
    engine: RecordingEngine,
) -> None:
    steps, compare = Steps(), asyncio.Event()
    engine.source.read = steps.read
    engine.recording.before_resume = compare.wait  # type: ignore[assignment]  # its answer is not used
    syncing = asyncio.create_task(engine.sync())
    await engine.recording.resuming.wait()
    await steps.has_started.wait()
    assert engine.database.tables == {}
    compare.set()
    eof = await syncing
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert steps.reached == ["begun", "started", "asked for more"]
    assert sorted(engine.database.tables["a"]) == ["1"]


async def test_a_read_from_a_wrong_starting_point_is_discarded_and_repeated(
    engine: RecordingEngine,
) -> None:
    state = (await engine.sync(run_id="run", state_limit=1)).ending_state
    engine.database.drop("a")
    compare = asyncio.Event()
    engine.recording.before_resume = compare.wait  # type: ignore[assignment]
    engine.source.reading.clear()
    syncing = asyncio.create_task(engine.sync(run_id="run", state=state))
    await engine.source.reading.wait()
    engine.source.closed.clear()
    compare.set()
    eof = await syncing
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert [request.state.streams.get("a") for request in engine.source.requests] == [
        None,
        '{"pages": 1}',
        None,
    ]
    assert sorted(engine.database.tables["a"]) == ["1", "2"]
    assert eof.run_progress.streams["a"].record_count == 2


async def test_a_failure_of_a_discarded_read_is_ignored(
    engine: RecordingEngine,
) -> None:
    state = (await engine.sync(run_id="run", state_limit=1)).ending_state
    engine.database.drop("a")
    whole = pages(DATASET)
    broken = then_raises(ConnectorError("the checkpoint is not one of this source"))

    def read(request: ReadRequest) -> Messages:
        return (broken if request.state.streams else whole)(request)

    engine.source.read = read
    eof = await engine.sync(run_id="run", state=state)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.failure_message == ""


async def test_a_failure_of_a_confirmed_read_follows_its_messages(
    engine: RecordingEngine,
) -> None:
    engine.source.read = then_raises(
        ConnectorError("no more"), started("a"), record_batch("a", b'{"id":"1"}'), checkpoint("a")
    )
    eof = await engine.sync(run_id="run")
    assert eof.failure_message == "no more"
    assert sorted(engine.database.tables["a"]) == ["1"]
    assert "a" in eof.ending_state.positions


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("options", [{}, {"events_only": True}], ids=["run", "events"])
async def test_the_hard_limit_ends_a_blocked_comparison(
    engine: RecordingEngine, rpc: Rpc, options: dict[str, Any]
) -> None:
    state = (await engine.sync(run_id="run", state_limit=1)).ending_state
    engine.recording.before_resume = for_ever
    eof = await engine.sync(rpc, run_id="run", state=state, time_limit=seconds(0.3), **options)
    assert eof.has_more
    assert not eof.failure_message
    assert eof.ending_state.source == state.source
    assert eof.ending_state.positions == state.positions
    await engine.source.closed.wait()


async def test_a_limit_that_is_too_short_for_the_comparison_ends_the_run(
    engine: RecordingEngine,
) -> None:
    engine.recording.before_resume = for_ever
    state = SyncState()
    for has_more in (True, True, False):
        eof = await engine.sync(run_id="run", state=state, time_limit=seconds(0.05))
        assert eof.has_more is has_more
        assert "nothing was committed within the time_limit" in eof.limit_message
        state = eof.ending_state
    assert eof.status == RUN_STATUS_FAILED


async def test_a_shutdown_ends_the_comparison(engine: RecordingEngine) -> None:
    engine.recording.before_resume = for_ever
    syncing = asyncio.create_task(engine.sync(run_id="run"))
    await engine.recording.resuming.wait()
    engine.servicer.request_shutdown()
    eof = await syncing
    assert eof.has_more
    assert eof.limit_message == ""


async def test_pages_read_by_the_soft_limit_are_written_after_the_comparison(
    engine: RecordingEngine,
) -> None:
    async def past_the_soft_limit() -> None:
        await asyncio.sleep(0.4)

    engine.recording.before_resume = past_the_soft_limit
    engine.source.streams = [stream("a")]
    eof = await engine.sync(run_id="run", soft_time_limit=seconds(0.2), time_limit=seconds(60))
    assert eof.has_more
    assert sorted(engine.database.tables["a"]) == ["1"]


async def test_cancelling_the_comparison_closes_the_read_and_leaves_no_task() -> None:
    with pipeline_of(account(["a"])) as pipeline:
        pipeline.recording.before_resume = for_ever
        before = asyncio.all_tasks()

        async def consume() -> None:
            async with aclosing(run_sync(pipeline.plan())) as messages:
                async for _ in messages:
                    pass

        consuming = asyncio.create_task(consume())
        await pipeline.recording.resuming.wait()
        await pipeline.source.reading.wait()
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert pipeline.source.closed.is_set()
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("rpc", RPCS)
async def test_an_unreachable_destination_fails_the_connection_and_keeps_the_state(
    engine: RecordingEngine, rpc: Rpc
) -> None:
    state = (await engine.sync(run_id="run", state_limit=1)).ending_state

    async def unreachable() -> None:
        raise ConnectionFailed("the database cannot be reached")

    engine.recording.before_resume = unreachable
    eof = await engine.sync(rpc, run_id="run", state=state)
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.has_more
    connection = eof.run_progress.connection_status
    assert connection.status == ConnectionStatus.STATUS_FAILED
    assert connection.message == "the database cannot be reached"
    assert eof.ending_state.source == state.source
    assert eof.ending_state.positions == state.positions
    assert not eof.rewound_streams


async def test_the_unreachable_connector_is_named(engine: RecordingEngine) -> None:
    async def unreachable() -> None:
        raise ConnectionFailed("gone")

    engine.recording.before_resume = unreachable
    messages = await engine.messages()
    [failed] = [message for message in messages if message.HasField("connection_status")]
    assert failed.emitted_by == "destination/scripted"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectorError("the schema is protected"), "the schema is protected"),
        (ZeroDivisionError(), "destination/scripted stopped unexpectedly"),
    ],
)
async def test_any_other_failure_of_the_comparison_is_reported(
    engine: RecordingEngine, error: Exception, told: str
) -> None:
    async def fail() -> None:
        raise error

    engine.recording.before_resume = fail
    eof = await engine.sync()
    assert eof.status == RUN_STATUS_FAILED
    assert told in eof.failure_message


async def test_the_account_comes_from_the_source_which_fails_if_it_is_unknown(
    engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def account_id(self: object, config: object) -> str:
        return "acct_1"

    async def unreachable(self: object, config: object) -> str:
        raise ConnectionFailed("the API cannot be reached")

    monkeypatch.setattr(ComparingSource, "account_id", account_id, raising=False)
    eof = await engine.sync()
    assert eof.account_id == engine.recording.requests[0].account_id == "acct_1"
    assert {owner for owner, _, _ in engine.database.lines} == {"acct_1"}
    monkeypatch.setattr(ComparingSource, "account_id", unreachable)
    messages = await engine.messages()
    [failed] = [message for message in messages if message.HasField("connection_status")]
    assert failed.emitted_by == "source/scripted"
    assert messages[-1].eof.status == RUN_STATUS_FAILED
    assert len(engine.recording.requests) == 1


async def test_a_request_that_loses_its_checkpoints_ends_with_has_more(
    engine: RecordingEngine,
) -> None:
    first = True

    async def taken_over() -> None:
        nonlocal first
        if first and engine.database.lines:
            first = False
            key, line = next(
                (key, line) for key, line in engine.database.lines.items() if key[2] == "a"
            )
            engine.database.lines[key] = line.begin(line.checkpoint)

    engine.destination.before_commit = taken_over
    eof = await engine.sync(run_id="run")
    assert eof.has_more
    assert eof.status == RUN_STATUS_STARTED
    assert not eof.failure_message
    eof = await engine.sync(run_id="run", state=eof.ending_state)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert sorted(engine.database.tables["a"]) == ["1", "2"]


async def test_requests_that_keep_taking_over_from_each_other_fail(
    engine: RecordingEngine,
) -> None:
    async def taken_over() -> None:
        for key, line in list(engine.database.lines.items()):
            engine.database.lines[key] = line.begin(line.checkpoint)

    engine.destination.before_commit = taken_over
    state = SyncState()
    for has_more in (True, True, False):
        eof = await engine.sync(run_id="run", state=state)
        assert eof.has_more is has_more
        assert "another request took over" in eof.limit_message
        state = eof.ending_state
    assert eof.status == RUN_STATUS_FAILED


async def test_listening_in_a_discarded_read_is_ignored() -> None:
    with pipeline_of(account(["a"])) as pipeline:
        state = (await pipeline.sync(run_id="run", state_limit=2)).ending_state
        assert "a" in state.source.streams
        pipeline.database.drop("a")
        await _wait_for_events(pipeline, state)


async def _wait_for_events(pipeline: Pipeline, state: SyncState) -> None:
    whole = pipeline.account.read

    async def read(request: ReadRequest) -> Messages:
        if request.state.streams:
            request.on_listening()
            await asyncio.Event().wait()
        async with aclosing(whole(request)) as messages:
            async for message in messages:
                yield message

    pipeline.source.read = read
    eof = await pipeline.sync(run_id="run", state=state)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.has_more
