"""The end of pushed inputs is recorded, and lost inputs are detected."""

from typing import Any

import pytest

from pipesync.v1.message_pb2 import Message, RecentEvents, SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import CheckpointPosition, DeadLetter, SyncState
from tests.engine_server.reads import given, pages, then_raises
from tests.engine_server.recorded.conftest import RPCS, RecordingEngine, Rpc, copied
from tests.engine_server.recorded.database import INPUTS
from tests.messages import record_batch, stream

DATASET = {"a": [[b'{"id":"1"}']], "b": [[b'{"id":"1"}']]}
PUSHED = [SourceInput(event_json=b"{}")]


@pytest.fixture
async def engine(recording_engine: RecordingEngine) -> RecordingEngine:
    recording_engine.source.streams = [stream(name) for name in DATASET]
    recording_engine.source.read = pages(DATASET)
    return recording_engine


async def synced(engine: RecordingEngine) -> SyncState:
    """Return the state of a finished run, to push events after."""
    state = (await engine.sync(run_id="run")).ending_state
    engine.source.read = given(record_batch("a", b'{"id":"2"}'))
    return state


@pytest.mark.parametrize("rpc", RPCS)
async def test_positions_continue_across_requests(engine: RecordingEngine, rpc: Rpc) -> None:
    state = await synced(engine)
    numbers = []
    for _ in range(3):
        eof = await engine.sync(rpc, state=state, inputs=PUSHED)
        assert eof.status == RUN_STATUS_SUCCEEDED
        state = eof.ending_state
        numbers.append(state.inputs_position.number)
        assert state.inputs_position == engine.database.line(INPUTS).position
    assert numbers == [1, 2, 3]
    assert state.sync_run.finished


async def test_a_caller_gets_the_resumption_and_no_inputs_end(
    engine: RecordingEngine,
) -> None:
    messages = await engine.messages(state=await synced(engine), inputs=PUSHED)
    kinds = [message.WhichOneof("payload") for message in messages]
    assert kinds == ["resumption", "progress", "eof"]
    [_, request] = engine.recording.requests
    assert (
        set(request.advanced_streams),
        request.advances_shared_checkpoint,
        request.pushes_inputs,
    ) == (set(), False, True)


@pytest.mark.parametrize(
    ("inputs", "is_stateless"),
    [
        pytest.param([SourceInput(recent_events=RecentEvents())], False, id="fetched events"),
        pytest.param(PUSHED, True, id="a caller without a state"),
    ],
)
async def test_the_end_of_inputs_is_recorded_only_for_callers_that_keep_them(
    engine: RecordingEngine, inputs: list[SourceInput], is_stateless: bool
) -> None:
    state = await synced(engine)
    lines = dict(engine.database.lines)
    eof = await engine.sync(state=SyncState() if is_stateless else state, inputs=inputs)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.ending_state.HasField("inputs_position")
    assert engine.database.lines.keys() == lines.keys()


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(then_raises(ZeroDivisionError()), id="the source throws"),
        pytest.param(
            given(record_batch("b", b'{"id":"2"}'), record_batch("a", b'{"id":"2"}')),
            id="a stream is refused",
        ),
    ],
)
async def test_the_end_of_failed_inputs_is_not_recorded(engine: RecordingEngine, read: Any) -> None:
    state = await synced(engine)
    engine.source.read = read
    engine.destination.refuses = frozenset({"a"})
    eof = await engine.sync(state=state, inputs=PUSHED)
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.ending_state.inputs_position.number
    assert engine.database.line(INPUTS).number == 0


async def test_an_event_that_fails_by_itself_is_returned_and_the_others_are_recorded(
    engine: RecordingEngine,
) -> None:
    state = await synced(engine)
    letter = Message(dead_letter=DeadLetter(event_id="evt_1", reason="it is broken"))
    engine.source.read = given(record_batch("a", b'{"id":"2"}'), letter)
    eof = await engine.sync(state=state, inputs=PUSHED)
    assert [one.event_id for one in eof.dead_letters] == ["evt_1"]
    assert eof.ending_state.inputs_position.number == 1


async def test_pushed_inputs_fail_when_another_request_takes_over(
    engine: RecordingEngine,
) -> None:
    state = await synced(engine)

    async def taken_over() -> None:
        engine.database.forget(INPUTS)

    engine.destination.before_commit = taken_over
    eof = await engine.sync(state=state, inputs=PUSHED)
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.has_more
    assert eof.failure_message
    assert not eof.ending_state.HasField("inputs_position")


@pytest.mark.parametrize("keeps", [True, False], ids=["kept by the caller", "kept by nobody"])
async def test_lost_inputs_are_sent_again_or_covered_by_a_reread(
    engine: RecordingEngine, keeps: bool
) -> None:
    state = await synced(engine)
    state = (await engine.sync(state=state, inputs=PUSHED)).ending_state
    backup = engine.database.dump()
    held = copied(state).inputs_position
    state = (await engine.sync(state=state, inputs=PUSHED)).ending_state
    engine.database.restore(backup)
    options: dict[str, Any] = {"replayable_inputs": held} if keeps else {}
    eof = await engine.sync(state=state, inputs=PUSHED, **options)
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.lost_inputs.held == held
    assert eof.lost_inputs.covered_by_reread is not keeps
    assert [each.stream for each in eof.rewound_streams] == ([] if keeps else ["a", "b"])
    assert eof.ending_state.inputs_position.epoch != held.epoch
    # The request's own inputs were written and recorded after the held ones.
    assert eof.ending_state.inputs_position == engine.database.line(INPUTS).position
    again = await engine.sync(state=eof.ending_state, inputs=PUSHED, **options)
    assert not again.HasField("lost_inputs")
    assert not again.rewound_streams


async def test_streams_that_are_reread_for_lost_inputs_are_reconciled(
    engine: RecordingEngine,
) -> None:
    state = await synced(engine)
    backup = engine.database.dump()
    state = (await engine.sync(state=state, inputs=PUSHED)).ending_state
    engine.database.restore(backup)
    eof = await engine.sync(state=state, inputs=PUSHED)
    assert eof.ending_state.sync_run.reconcile
    engine.source.read = pages(DATASET)
    for run_id in ("run", "other"):
        await engine.sync(run_id=run_id, state=copied(eof.ending_state))
        request = engine.source.requests[-1]
        assert request.reconcile
        assert [selected.name for selected in request.streams] == ["a", "b"]
        assert not request.state.streams


async def test_inputs_are_not_read_again_when_streams_are_rewound(
    engine: RecordingEngine,
) -> None:
    state = await synced(engine)
    engine.database.drop("a")
    count = len(engine.source.requests)
    eof = await engine.sync(state=state, inputs=PUSHED)
    assert [each.stream for each in eof.rewound_streams] == ["a"]
    assert len(engine.source.requests) == count + 1
    assert sorted(engine.database.tables["a"]) == ["2"]
    assert "a" not in eof.ending_state.source.streams


async def test_replayable_inputs_need_an_epoch(
    engine: RecordingEngine,
) -> None:
    with pytest.raises(Exception, match="replayable_inputs") as error:
        await engine.sync(replayable_inputs=CheckpointPosition(number=-1))
    violations = getattr(error.value, "field_violations", [])
    assert sorted(each.field for each in violations) == [
        "options.replayable_inputs.epoch",
        "options.replayable_inputs.number",
    ]
