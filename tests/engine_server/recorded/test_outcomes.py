"""Outcomes of the comparison, as callers of the RPCs see them."""

import pytest

from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, RUN_STATUS_SUCCEEDED, StreamProgress
from pipesync.v1.state_pb2 import RewoundStream, SyncState
from tests.engine_server.reads import given, pages
from tests.engine_server.recorded.conftest import RPCS, RecordingEngine, Rpc, copied
from tests.engine_server.recorded.pipeline import ComparingSource
from tests.messages import (
    checkpoint,
    completed,
    errored,
    global_checkpoint,
    record_batch,
    seconds,
    started,
    stream,
)

DATASET = {
    "a": [[b'{"id":"1"}'], [b'{"id":"2"}'], [b'{"id":"3"}']],
    "b": [[b'{"id":"1"}']],
}


@pytest.fixture
def engine(recording_engine: RecordingEngine) -> RecordingEngine:
    recording_engine.source.streams = [stream(name) for name in DATASET]
    recording_engine.source.read = pages(DATASET)
    return recording_engine


def rewound(state: SyncState, name: str) -> StreamProgress:
    return state.sync_run.progress.streams[name]


async def test_a_matching_state_resumes_with_the_position_of_each_checkpoint(
    engine: RecordingEngine,
) -> None:
    first = await engine.sync(run_id="run", state_limit=2)
    messages = await engine.messages(run_id="run", state=first.ending_state)
    kinds = [message.WhichOneof("payload") for message in messages]
    assert kinds[:2] == ["sync_run", "resumption"]
    assert kinds.count("resumption") == 1
    resumption = messages[1].resumption
    assert not resumption.rewound_streams
    assert dict(resumption.state.source.streams) == {"a": '{"pages": 2}'}
    positions = [
        message.source_state.position for message in messages if message.HasField("source_state")
    ]
    assert positions == [engine.database.line(name).position for name in "ab"]
    state = messages[-1].eof.ending_state
    assert dict(state.positions) == {name: engine.database.line(name).position for name in "ab"}
    assert state.destination
    assert messages[-1].eof.status == RUN_STATUS_SUCCEEDED
    assert not rewound(state, "a").rewound_reason
    # Nothing was read twice.
    assert [request.state.streams.get("a") for request in engine.source.requests] == [
        None,
        '{"pages": 2}',
    ]


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("damage", ["drop", "truncate"])
@pytest.mark.parametrize("run_id", ["run", "other", ""])
async def test_a_stream_with_an_emptied_table_is_read_from_the_start(
    engine: RecordingEngine, rpc: Rpc, damage: str, run_id: str
) -> None:
    state = (await engine.sync(rpc, run_id="run")).ending_state
    ceiling = state.sync_run.time_ceiling.ToNanoseconds()
    getattr(engine.database, damage)("a")
    eof = await engine.sync(rpc, run_id=run_id, state=state)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.has_more
    assert sorted(engine.database.tables["a"]) == ["1", "2", "3"]
    [back] = eof.rewound_streams
    assert (back.stream, back.from_start) == ("a", True)
    progress = eof.run_progress.streams["a"]
    assert (progress.rewound_reason, progress.record_count) == (back.reason, 3)
    assert eof.request_progress.streams["a"].rewound_reason == back.reason
    assert not eof.run_progress.streams["b"].rewound_reason
    assert eof.ending_state.sync_run.finished
    if run_id:
        assert eof.ending_state.sync_run.time_ceiling.ToNanoseconds() >= ceiling
    # The stream is not rewound twice.
    again = await engine.sync(rpc, run_id=run_id, state=eof.ending_state)
    assert not again.rewound_streams


async def test_the_caller_gets_warning_and_resumption_before_any_data(
    engine: RecordingEngine,
) -> None:
    state = (await engine.sync(run_id="run")).ending_state
    engine.database.drop("a")
    messages = await engine.messages(run_id="run", state=state)
    run, resumption, warning = messages[:3]
    assert not run.sync_run.finished
    assert run.sync_run.progress.derived.status == RUN_STATUS_STARTED
    assert [each.stream for each in resumption.resumption.rewound_streams] == ["a"]
    assert dict(resumption.resumption.state.source.streams) == {"b": '{"pages": 1}'}
    assert "a goes on from the start" in warning.log.message
    assert warning.log.data["rewound_stream_count"] == 1


async def test_a_restored_backup_resumes_from_its_checkpoint(engine: RecordingEngine) -> None:
    early = (await engine.sync(run_id="run", state_limit=2)).ending_state
    backup = engine.database.dump()
    state = (await engine.sync(run_id="run", state=early)).ending_state
    engine.database.restore(backup)
    eof = await engine.sync(run_id="run", state=state)
    assert engine.source.requests[-1].state.streams["a"] == '{"pages": 2}'
    assert [(each.stream, each.from_start) for each in eof.rewound_streams] == [
        ("a", False),
        ("b", True),
    ]
    assert sorted(engine.database.tables["a"]) == ["1", "2", "3"]
    assert sorted(engine.database.tables["b"]) == ["1"]


async def test_an_older_copy_of_the_state_is_not_rewound(engine: RecordingEngine) -> None:
    early = (await engine.sync(run_id="run", state_limit=2)).ending_state
    await engine.sync(run_id="run", state=copied(early))
    eof = await engine.sync(run_id="run", state=early)
    assert not eof.rewound_streams
    assert engine.source.requests[-1].state.streams["a"] == '{"pages": 2}'


async def test_rewinding_the_shared_checkpoint_rewinds_all_streams(
    engine: RecordingEngine,
) -> None:
    engine.source.read = given(
        started("a"),
        global_checkpoint('"c1"'),
        record_batch("a", b'{"id":"1"}'),
        checkpoint("a", '"1"'),
        completed("a"),
        started("b"),
        checkpoint("b", '"1"'),
        completed("b"),
    )
    state = (await engine.sync(run_id="run")).ending_state
    assert set(state.positions) == {"", "a", "b"}
    engine.database.lines = {
        key: line for key, line in engine.database.lines.items() if key[2] != ""
    }
    eof = await engine.sync(run_id="run", state=state)
    assert [(each.stream, each.from_start) for each in eof.rewound_streams] == [
        ("", True),
        ("a", True),
        ("b", True),
    ]
    assert engine.source.requests[-1].state.shared == ""
    # Rows remain that may belong to records deleted since.
    assert engine.source.requests[-1].reconcile


async def test_a_reset_state_starts_a_lineage_and_reconciles_remaining_rows(
    engine: RecordingEngine,
) -> None:
    first = await engine.sync(run_id="run")
    second = await engine.sync(run_id="other")
    assert first.ending_state.destination != second.ending_state.destination
    assert [request.reconcile for request in engine.source.requests[-2:]] == [False, True]
    assert not second.rewound_streams
    assert second.ending_state.sync_run.reconcile


async def test_a_reset_state_does_not_reconcile_without_events(
    engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComparingSource, "follows_events_field", "")
    await engine.sync(run_id="run")
    second = await engine.sync(run_id="other")
    assert [request.reconcile for request in engine.source.requests[-2:]] == [False, False]
    assert not second.ending_state.sync_run.reconcile


async def test_a_state_of_an_older_version_resumes_streams_with_rows(
    engine: RecordingEngine,
) -> None:
    engine.database.tables = {"a": {"1": {"id": "1"}}, "b": {}}
    state = SyncState()
    state.source.streams.update({"a": '{"pages": 1}', "b": '{"pages": 1}', "c": "{}"})
    eof = await engine.sync(state=state)
    assert [(each.stream, each.from_start) for each in eof.rewound_streams] == [("b", True)]
    assert sorted(engine.database.tables["a"]) == ["1", "2", "3"]
    assert {name for _, _, name in engine.database.lines} >= {"a", "b", "c"}
    assert not eof.ending_state.sync_run.reconcile


async def test_a_finished_run_ends_at_once_unless_a_stream_is_rewound(
    engine: RecordingEngine,
) -> None:
    state = (await engine.sync(run_id="run")).ending_state
    for _ in range(2):
        eof = await engine.sync(run_id="run", state=state)
        assert eof.status == RUN_STATUS_SUCCEEDED
        assert eof.ending_state.sync_run.finished
        state = eof.ending_state
    assert len(engine.source.requests) == 1
    engine.database.truncate("b")
    eof = await engine.sync(run_id="run", state=state)
    assert [selected.name for selected in engine.source.requests[-1].streams] == ["b"]
    assert eof.run_progress.streams["a"].record_count == 3
    assert sorted(engine.database.tables["b"]) == ["1"]


async def test_a_rewound_stream_keeps_the_time_range_of_its_selection(
    engine: RecordingEngine,
) -> None:
    asked = [StreamSelection(name="a", time_range=seconds(1, 2)), StreamSelection(name="b")]
    state = (await engine.sync(run_id="run", streams=asked)).ending_state
    engine.database.drop("a")
    await engine.sync(run_id="run", streams=asked, state=state)
    [selected] = engine.source.requests[-1].streams
    assert selected.selection.time_range == seconds(1, 2)


async def test_an_errored_stream_is_retried_once_its_table_is_recreated(
    engine: RecordingEngine,
) -> None:
    engine.source.read = given(
        started("a"), checkpoint("a", '{"pages": 0}'), errored("a"), started("b"), completed("b")
    )
    state = (await engine.sync(run_id="run", state_limit=5)).ending_state
    assert state.sync_run.progress.streams["a"].status == StreamProgress.STATUS_ERRORED
    engine.database.drop("a")
    engine.source.read = pages(DATASET)
    eof = await engine.sync(run_id="run", state=state)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.run_progress.streams["a"].status == StreamProgress.STATUS_COMPLETED


@pytest.mark.parametrize("rpc", RPCS)
async def test_events_only_requests_return_a_state_that_is_read_again(
    engine: RecordingEngine, rpc: Rpc
) -> None:
    state = (await engine.sync(rpc, run_id="run")).ending_state
    engine.database.drop("a")
    engine.source.read = given(record_batch("a", b'{"id":"9"}'), global_checkpoint('"c"'))
    eof = await engine.sync(rpc, state=state, events_only=True)
    assert [each.stream for each in eof.rewound_streams] == ["a"]
    assert sorted(engine.database.tables["a"]) == ["9"]
    state = eof.ending_state
    assert "a" not in state.source.streams
    assert not state.sync_run.finished
    assert rewound(state, "a").rewound_reason == eof.rewound_streams[0].reason
    assert set(state.positions) >= {"", "b"}
    engine.source.read = pages(DATASET)
    eof = await engine.sync(rpc, run_id="run", state=state)
    assert sorted(engine.database.tables["a"]) == ["1", "2", "3", "9"]
    assert eof.run_progress.streams["a"].rewound_reason
    assert not eof.rewound_streams


async def test_a_resume_request_names_the_checkpoints_that_it_advances(
    engine: RecordingEngine,
) -> None:
    state = (await engine.sync(run_id="run", state_limit=3)).ending_state
    await engine.sync(run_id="run", state=state, events_only=True)
    whole, events = engine.recording.requests
    assert (set(whole.advanced_streams), whole.advances_shared_checkpoint, whole.pushes_inputs) == (
        {"a", "b"},
        True,
        False,
    )
    assert (set(events.advanced_streams), events.advances_shared_checkpoint) == (set(), True)
    assert whole.account_id == ""


async def test_stopping_at_each_checkpoint_rewinds_nothing(
    engine: RecordingEngine,
) -> None:
    state = SyncState()
    rewinds: list[RewoundStream] = []
    for _ in range(10):
        eof = await engine.sync(run_id="run", state=state, state_limit=1)
        rewinds += eof.rewound_streams
        state = eof.ending_state
        if not eof.has_more:
            break
    assert not eof.has_more
    assert rewinds == []
    assert len(engine.destination.committed) == 0
    assert {name: sorted(rows) for name, rows in engine.database.tables.items()} == {
        "a": ["1", "2", "3"],
        "b": ["1"],
    }
