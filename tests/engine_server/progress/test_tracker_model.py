"""Progress of random messages, compared with a simple model."""

from collections.abc import Sequence
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from engine_server.progress.tracker import DATA_PAYLOADS, ProgressTracker
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
    Progress,
    RowCounts,
    RunStatus,
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

NAMES = ("a", "b")
NAMES_SEEN = (*NAMES, "another")
SECOND = 1_000_000_000
Status: TypeAlias = StreamProgress.Status.ValueType

span = st.tuples(st.integers(0, 12), st.integers(1, 5))
names = st.sampled_from(NAMES_SEEN)
counts = st.integers(0, 3)
messages = st.lists(
    st.one_of(
        st.builds(started, names),
        st.builds(completed, names),
        st.builds(skipped, names),
        st.builds(errored, names, st.sampled_from(["it broke", "it burst"])),
        st.builds(checkpoint, names),
        names.flatmap(
            lambda name: st.integers(0, 3).map(lambda n: record_batch(name, *[b"{}"] * n))
        ),
        st.tuples(names, span).map(
            lambda drawn: range_completed(drawn[0], seconds(drawn[1][0], drawn[1][0] + drawn[1][1]))
        ),
        st.builds(
            rows_written, names, inserted=counts, updated=counts, unchanged=counts, deleted=counts
        ),
        st.builds(global_checkpoint),
        st.builds(connected),
        st.builds(connection_failed, st.just("gone")),
        st.builds(log, st.just("x")),
    ),
    max_size=40,
)


def stamped(some: Sequence[Message]) -> list[Message]:
    """Return the messages with times one second apart."""
    for second, message in enumerate(some, start=1):
        message.ts.FromSeconds(second)
    return list(some)


def status_of(turns: Sequence[str | None]) -> Status:
    """Return the status after these messages: the first final one, unless an error follows."""
    if "errored" in turns:
        return StreamProgress.STATUS_ERRORED
    for turn in turns:
        if turn == "completed":
            return StreamProgress.STATUS_COMPLETED
        if turn == "skipped":
            return StreamProgress.STATUS_SKIPPED
    return (
        StreamProgress.STATUS_STARTED if "started" in turns else StreamProgress.STATUS_NOT_STARTED
    )


def sums_of(some: Sequence[RowCounts]) -> RowCounts:
    return RowCounts(
        inserted=sum(rows.inserted for rows in some),
        updated=sum(rows.updated for rows in some),
        unchanged=sum(rows.unchanged for rows in some),
        deleted=sum(rows.deleted for rows in some),
    )


def run_status(some: Sequence[Message], statuses: set[Status]) -> RunStatus.ValueType:
    connections = [m.connection_status.status for m in some if m.HasField("connection_status")]
    if connections[-1:] == [ConnectionStatus.STATUS_FAILED]:
        return RUN_STATUS_FAILED
    if statuses & {StreamProgress.STATUS_NOT_STARTED, StreamProgress.STATUS_STARTED}:
        return RUN_STATUS_STARTED
    return RUN_STATUS_FAILED if StreamProgress.STATUS_ERRORED in statuses else RUN_STATUS_SUCCEEDED


def assert_is_what_the_messages_say(progress: Progress, some: Sequence[Message]) -> None:
    assert set(progress.streams) == set(NAMES)
    for name, stream in progress.streams.items():
        own = [message for message in some if stream_name(message) == name]
        statuses = [m.stream_status for m in own if m.HasField("stream_status")]
        assert stream.status == status_of([one.WhichOneof("status") for one in statuses])
        errors = [one.errored.error for one in statuses if one.HasField("errored")]
        if errors:
            assert stream.message == errors[0]
        assert stream.record_count == sum(len(m.record_batch.records) for m in own)
        told = [m.rows_written.rows for m in own if m.HasField("rows_written")]
        assert stream.HasField("rows") == bool(told)
        assert stream.rows == sums_of(told)
        assert stream.state_count == sum(m.HasField("source_state") for m in own)
        ranges = [one.range_completed.range for one in statuses if one.HasField("range_completed")]
        covered = {second for r in ranges for second in range(r.gte.seconds, r.lt.seconds)}
        found = [s for r in stream.completed_ranges for s in range(r.gte.seconds, r.lt.seconds)]
        assert found == sorted(covered)
    derived = progress.derived
    streams = progress.streams.values()
    assert derived.total_record_count == sum(stream.record_count for stream in streams)
    assert derived.total_rows == sums_of([stream.rows for stream in streams])
    assert derived.total_state_count == sum(stream.state_count for stream in streams)
    assert progress.global_state_count == sum(
        m.HasField("source_state") and not m.source_state.stream for m in some
    )
    assert derived.status == run_status(some, {stream.status for stream in streams})
    times = [m.ts.seconds for m in some if m.WhichOneof("payload") in DATA_PAYLOADS]
    assert progress.HasField("started_at") == bool(times)
    if times:
        assert progress.started_at.seconds == times[0]
        assert progress.elapsed_ms == (len(some) - times[0]) * 1_000


@given(messages)
def test_progress_matches_the_messages_after_each_message(some: list[Message]) -> None:
    tracker = ProgressTracker(NAMES)
    seen: list[Message] = []
    for message in stamped(some):
        before = {name: s.status for name, s in tracker.snapshot(0).streams.items()}
        changed = tracker.observe(message)
        seen.append(message)
        progress = tracker.snapshot(len(seen) * SECOND)
        assert_is_what_the_messages_say(progress, seen)
        assert changed == (before != {name: s.status for name, s in progress.streams.items()})
        assert tracker.unfinished() == sorted(
            name
            for name, stream in progress.streams.items()
            if stream.status in {StreamProgress.STATUS_NOT_STARTED, StreamProgress.STATUS_STARTED}
        )


@given(messages, messages)
def test_progress_in_two_requests_matches_all_messages(
    some: list[Message], rest: list[Message]
) -> None:
    # The second request does not know the first one's connection_status.
    first = [message for message in some if not message.HasField("connection_status")]
    everything = stamped([*first, *rest])
    tracker = ProgressTracker(NAMES)
    for message in first:
        tracker.observe(message)
    tracker = ProgressTracker(tracker.unfinished(), tracker.snapshot(len(first) * SECOND))
    for message in rest:
        tracker.observe(message)
    assert_is_what_the_messages_say(tracker.snapshot(len(everything) * SECOND), everything)
