"""Run of a request, and the states that it starts with and returns."""

import pytest

from engine_server.state.state import apply_checkpoint, begin_run, end_run
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.progress_pb2 import Progress
from pipesync.v1.state_pb2 import SyncState
from tests.messages import checkpoint, completed, global_checkpoint

THEN = 1_700_000_000
NOW = 1_800_000_000
NOW_NANOSECONDS = NOW * 1_000_000_000 + 999_999_999


def ended(run_id: str = "", *, has_more: bool = False) -> SyncState:
    """Return the state of an earlier request."""
    state = begin_run(SyncOptions(run_id=run_id), THEN * 1_000_000_000)
    state.destination = '{"d": 1}'
    apply_checkpoint(state, checkpoint("a", '{"n": 1}'))
    apply_checkpoint(state, global_checkpoint('{"cursor": 1}'))
    end_run(state, Progress(global_state_count=1), has_more=has_more)
    return state


@pytest.mark.parametrize("run_id", ["", "r1"])
def test_a_new_run_has_the_end_of_the_current_second_as_ceiling(
    run_id: str,
) -> None:
    state = begin_run(SyncOptions(run_id=run_id), NOW_NANOSECONDS)
    assert state.sync_run.run_id == run_id
    assert state.sync_run.time_ceiling.ToNanoseconds() == (NOW + 1) * 1_000_000_000
    assert not state.sync_run.HasField("progress")
    assert not state.source.streams


@pytest.mark.parametrize(
    ("earlier", "run_id"),
    [
        pytest.param(ended("r1"), "r1", id="a finished run"),
        pytest.param(ended("r1", has_more=True), "r1", id="a run cut short"),
        pytest.param(ended("", has_more=True), "", id="a request without a run, cut short"),
    ],
)
def test_a_continued_run_keeps_its_state(earlier: SyncState, run_id: str) -> None:
    state = begin_run(SyncOptions(run_id=run_id, state=earlier), NOW_NANOSECONDS)
    assert state == earlier
    assert state.sync_run.time_ceiling.seconds == THEN + 1


@pytest.mark.parametrize(
    ("earlier", "run_id"),
    [
        pytest.param(ended("r1"), "r2", id="another run"),
        pytest.param(ended("r1", has_more=True), "r2", id="another run, cut short"),
        pytest.param(ended(""), "r2", id="a request without a run"),
        pytest.param(ended("", has_more=True), "r2", id="one without a run, cut short"),
        pytest.param(ended("r1"), "", id="no run after a run"),
        pytest.param(ended("r1", has_more=True), "", id="no run after a run that was cut short"),
        pytest.param(ended(""), "", id="no run after a finished request without one"),
    ],
)
def test_a_new_run_keeps_checkpoints_and_resets_progress(earlier: SyncState, run_id: str) -> None:
    state = begin_run(SyncOptions(run_id=run_id, state=earlier), NOW_NANOSECONDS)
    assert state.source == earlier.source
    assert state.destination == earlier.destination
    assert state.sync_run.run_id == run_id
    assert state.sync_run.time_ceiling.seconds == NOW + 1
    assert not state.sync_run.HasField("progress")


def test_the_state_of_the_request_is_not_modified() -> None:
    options = SyncOptions(run_id="r2", state=ended("r1"))
    state = begin_run(options, NOW_NANOSECONDS)
    apply_checkpoint(state, checkpoint("a", '{"n": 2}'))
    assert options.state == ended("r1")


def test_a_checkpoint_is_stored_unchanged() -> None:
    state = SyncState()
    text = '{ "b": 1.0, "a": 12345678901234567890123 }'
    apply_checkpoint(state, checkpoint("a", '{"n": 1}'))
    apply_checkpoint(state, checkpoint("a", text))
    apply_checkpoint(state, completed("a"))
    assert state.source.streams == {"a": text}
    assert state.source.shared == ""


@pytest.mark.parametrize(
    ("run_id", "has_more", "frozen"),
    [("r1", True, True), ("r1", False, True), ("", True, True), ("", False, False)],
)
def test_the_ceiling_is_kept_until_the_run_is_finished(
    run_id: str, has_more: bool, frozen: bool
) -> None:
    assert ended(run_id, has_more=has_more).sync_run.HasField("time_ceiling") is frozen


@pytest.mark.parametrize(
    ("run_id", "streams"),
    [("r1", {"a": '{"n": 1}'}), ("r2", {})],
    ids=["the same run", "a new one"],
)
def test_a_reconciling_run_drops_stream_checkpoints_once(
    run_id: str, streams: dict[str, str]
) -> None:
    earlier = ended("r1", has_more=True)
    state = begin_run(SyncOptions(run_id=run_id, state=earlier, reconcile=True), NOW_NANOSECONDS)
    assert state.source.streams == streams
    assert state.source.shared == '{"cursor": 1}'
    assert state.sync_run.reconcile is (run_id == "r2")
    again = begin_run(SyncOptions(run_id=run_id, state=state), NOW_NANOSECONDS)
    assert again.sync_run.reconcile is (run_id == "r2")
