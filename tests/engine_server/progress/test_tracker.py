"""Progress derived from messages."""

import pytest

from engine_server.progress.tracker import ProgressTracker
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    Progress,
    RowCounts,
    StreamProgress,
)
from tests.messages import (
    checkpoint,
    completed,
    connected,
    connection_failed,
    errored,
    global_checkpoint,
    log,
    range_completed,
    record_batch,
    rows_written,
    seconds,
    skipped,
    started,
)

SECOND = 1_000_000_000
NOT_STARTED = StreamProgress.STATUS_NOT_STARTED
STARTED = StreamProgress.STATUS_STARTED
COMPLETED = StreamProgress.STATUS_COMPLETED
SKIPPED = StreamProgress.STATUS_SKIPPED
ERRORED = StreamProgress.STATUS_ERRORED


def at(second: float, message: Message) -> Message:
    """Return the message with this time."""
    message.ts.FromNanoseconds(int(second * SECOND))
    return message


def progress_of(*messages: Message, now: float = 0) -> Progress:
    """Return the progress of the streams a and b after the messages."""
    tracker = ProgressTracker(["a", "b"])
    for message in messages:
        tracker.observe(message)
    return tracker.snapshot(int(now * SECOND))


def test_progress_is_empty_without_messages() -> None:
    progress = progress_of(now=5)
    assert {name: stream.status for name, stream in progress.streams.items()} == {
        "a": NOT_STARTED,
        "b": NOT_STARTED,
    }
    assert not progress.HasField("started_at")
    assert not progress.HasField("connection_status")
    assert progress.elapsed_ms == 0
    assert progress.derived.states_per_second == 0


@pytest.mark.parametrize("data", [started("a"), record_batch("a", b"{}"), checkpoint("a")])
def test_time_starts_with_the_first_data_message(data: Message) -> None:
    progress = progress_of(
        at(10, log("connecting")),
        at(11, connected()),
        at(12, data),
        at(13, checkpoint("b")),
        now=13.5,
    )
    assert progress.started_at.ToSeconds() == 12
    assert progress.elapsed_ms == 1500


def test_elapsed_time_is_exact() -> None:
    assert progress_of(at(1, checkpoint("a")), now=2.001).elapsed_ms == 1001
    assert progress_of(at(5, checkpoint("a")), now=2).elapsed_ms == 0


def test_records_and_checkpoints_are_counted_by_stream_and_in_total() -> None:
    progress = progress_of(
        record_batch("a", b"{}", b"{}"),
        checkpoint("a"),
        record_batch("b", b"{}"),
        checkpoint("b"),
        checkpoint("b"),
        global_checkpoint(),
    )
    assert progress.streams["a"].record_count == 2
    assert progress.streams["a"].state_count == 1
    assert progress.streams["b"].record_count == 1
    assert progress.streams["b"].state_count == 2
    assert progress.global_state_count == 1
    assert progress.derived.total_record_count == 3
    assert progress.derived.total_state_count == 3


def test_row_counts_are_summed_by_stream_and_in_total_and_may_be_absent() -> None:
    progress = progress_of(
        rows_written("a", inserted=3, unchanged=1),
        rows_written("a", inserted=1, updated=2, deleted=4),
    )
    rows = RowCounts(inserted=4, updated=2, unchanged=1, deleted=4)
    assert progress.streams["a"].rows == rows
    assert progress.derived.total_rows == rows
    assert not progress.streams["b"].HasField("rows")
    assert not progress_of(record_batch("a", b"{}")).derived.HasField("total_rows")


def test_row_counts_are_not_records_and_start_no_progress() -> None:
    progress = progress_of(at(10, rows_written("a", inserted=3)))
    assert progress.streams["a"].status == NOT_STARTED
    assert (progress.derived.total_record_count, progress.derived.total_state_count) == (0, 0)
    assert not progress.HasField("started_at")


def test_rates_use_the_elapsed_time_and_include_shared_checkpoints() -> None:
    progress = progress_of(
        at(10, record_batch("a", *[b"{}"] * 6)),
        at(10, checkpoint("a")),
        at(11, global_checkpoint()),
        now=14,
    )
    assert progress.derived.records_per_second == 1.5
    assert progress.derived.states_per_second == 0.5


def test_messages_of_other_streams_are_not_counted() -> None:
    progress = progress_of(
        record_batch("c", b"{}"), rows_written("c", inserted=1), checkpoint("c"), completed("c")
    )
    assert set(progress.streams) == {"a", "b"}
    assert progress.derived.total_record_count == 0
    assert progress.derived.total_state_count == 0
    assert not progress.derived.HasField("total_rows")


@pytest.mark.parametrize(
    ("messages", "status", "message"),
    [
        ([started("a")], STARTED, ""),
        ([completed("a")], COMPLETED, ""),
        ([started("a"), completed("a")], COMPLETED, ""),
        ([started("a"), skipped("a", "not enabled")], SKIPPED, "not enabled"),
        ([started("a"), errored("a", "broken")], ERRORED, "broken"),
        ([completed("a"), started("a")], COMPLETED, ""),
        ([completed("a"), skipped("a", "late")], COMPLETED, ""),
        ([skipped("a", "not enabled"), completed("a")], SKIPPED, "not enabled"),
        ([completed("a"), errored("a", "after all")], ERRORED, "after all"),
        ([skipped("a", "not enabled"), errored("a", "after all")], ERRORED, "after all"),
        ([errored("a", "broken"), completed("a")], ERRORED, "broken"),
        ([errored("a", "broken"), started("a")], ERRORED, "broken"),
        ([errored("a", "broken"), skipped("a")], ERRORED, "broken"),
        ([errored("a", "broken"), errored("a", "again")], ERRORED, "broken"),
    ],
)
def test_a_final_status_is_only_replaced_by_an_error(
    messages: list[Message], status: StreamProgress.Status.ValueType, message: str
) -> None:
    stream = progress_of(*messages).streams["a"]
    assert stream.status == status
    assert stream.message == message


def test_observe_reports_only_changes_of_status() -> None:
    tracker = ProgressTracker(["a"])
    seen = [
        started("a"),
        started("a"),
        range_completed("a", seconds(1, 2)),
        record_batch("a", b"{}"),
        checkpoint("a"),
        completed("c"),
        completed("a"),
        completed("a"),
        errored("a"),
    ]
    assert [tracker.observe(message) for message in seen] == [
        True,
        False,
        False,
        False,
        False,
        False,
        True,
        False,
        True,
    ]


def test_completed_ranges_are_merged() -> None:
    stream = progress_of(
        started("a", seconds(0, 100)),
        range_completed("a", seconds(50, 60)),
        range_completed("a", seconds(0, 10)),
        range_completed("a", seconds(10, 20)),
    ).streams["a"]
    assert stream.total_range == seconds(0, 100)
    assert list(stream.completed_ranges) == [seconds(0, 20), seconds(50, 60)]


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([completed("a")], RUN_STATUS_STARTED),
        ([completed("a"), started("b")], RUN_STATUS_STARTED),
        ([errored("a"), started("b")], RUN_STATUS_STARTED),
        ([errored("a"), completed("b")], RUN_STATUS_FAILED),
        ([completed("a"), skipped("b")], RUN_STATUS_SUCCEEDED),
        ([started("a"), connection_failed("gone")], RUN_STATUS_FAILED),
        ([started("a"), connected()], RUN_STATUS_STARTED),
    ],
)
def test_run_status(messages: list[Message], status: int) -> None:
    assert progress_of(*messages).derived.status == status


def test_a_run_without_streams_has_succeeded() -> None:
    assert ProgressTracker([]).status == RUN_STATUS_SUCCEEDED


def test_a_continuation_keeps_counts_ranges_statuses_and_time() -> None:
    previous = progress_of(
        at(10, started("a", seconds(0, 9))),
        record_batch("a", b"{}"),
        rows_written("a", inserted=1),
        checkpoint("a"),
        range_completed("a", seconds(0, 3)),
        errored("b", "broken"),
        global_checkpoint(),
        now=11,
    )
    tracker = ProgressTracker(["a"], previous)
    tracker.observe(at(20, started("a")))
    tracker.observe(record_batch("a", b"{}"))
    tracker.observe(rows_written("a", unchanged=1))
    tracker.observe(checkpoint("a"))
    tracker.observe(range_completed("a", seconds(3, 9)))
    progress = tracker.snapshot(21 * SECOND)
    stream = progress.streams["a"]
    assert (stream.record_count, stream.state_count) == (2, 2)
    assert stream.rows == progress.derived.total_rows == RowCounts(inserted=1, unchanged=1)
    assert list(stream.completed_ranges) == [seconds(0, 9)]
    assert stream.total_range == seconds(0, 9)
    assert progress.streams["b"].message == "broken"
    assert progress.global_state_count == 1
    assert progress.derived.total_record_count == 2
    assert progress.derived.total_state_count == 2
    assert progress.started_at.ToSeconds() == 10
    assert progress.elapsed_ms == 11_000


def test_a_continuation_drops_a_failed_connection_and_unselected_unfinished_streams() -> None:
    previous = progress_of(
        record_batch("a", b"{}"),
        rows_written("a", inserted=1),
        checkpoint("a"),
        record_batch("b", b"{}", b"{}"),
        rows_written("b", updated=2),
        checkpoint("b"),
        completed("b"),
        connection_failed("gone"),
    )
    progress = ProgressTracker(["c"], previous).snapshot(0)
    assert {name: stream.status for name, stream in progress.streams.items()} == {
        "b": COMPLETED,
        "c": NOT_STARTED,
    }
    assert not progress.HasField("connection_status")
    assert progress.derived.total_record_count == 2
    assert progress.derived.total_rows == RowCounts(updated=2)
    assert progress.derived.total_state_count == 1


def test_a_snapshot_is_an_independent_copy() -> None:
    previous = progress_of(checkpoint("a"))
    tracker = ProgressTracker(["a"], previous)
    snapshot = tracker.snapshot(0)
    tracker.observe(checkpoint("a"))
    assert snapshot.streams["a"].state_count == 1
    assert previous.streams["a"].state_count == 1
    assert tracker.snapshot(0).streams["a"].state_count == 2


def test_records_with_replaced_characters_are_counted_across_requests() -> None:
    written = rows_written("a", inserted=3)
    written.rows_written.replaced_record_count = 2
    first = progress_of(at(10, started("a")), at(11, written), at(12, written))
    assert first.streams["a"].replaced_record_count == 4
    assert first.derived.total_replaced_record_count == 4
    tracker = ProgressTracker(["a"], first)
    tracker.observe(at(20, written))
    again = tracker.snapshot(21)
    assert again.streams["a"].replaced_record_count == 6
    assert again.derived.total_replaced_record_count == 6
