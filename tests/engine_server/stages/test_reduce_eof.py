"""Status, failures and lists in the eof of a request."""

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from engine_server.errored_streams import ErroredStreams
from engine_server.stages.ending import Ending
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RejectedRecords
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    RowCounts,
    StreamProgress,
)
from pipesync.v1.state_pb2 import DeadLetter
from tests.engine_server.stages.reductions import eof_of, new_run, reduced
from tests.messages import (
    checkpoint,
    completed,
    connected,
    connection_failed,
    errored,
    global_checkpoint,
    log,
    record_batch,
    rows_written,
    skipped,
    started,
)


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], RUN_STATUS_STARTED),
        ([started("a"), completed("b")], RUN_STATUS_STARTED),
        ([completed("a"), completed("b")], RUN_STATUS_SUCCEEDED),
        ([completed("a"), skipped("b")], RUN_STATUS_SUCCEEDED),
        ([completed("a"), errored("b")], RUN_STATUS_FAILED),
        ([started("a"), errored("b")], RUN_STATUS_STARTED),
        ([completed("a"), completed("b"), connection_failed("gone")], RUN_STATUS_FAILED),
        ([completed("a"), completed("b"), connected()], RUN_STATUS_SUCCEEDED),
    ],
)
async def test_status(messages: list[Message], status: int) -> None:
    # A source that ends by itself has to finish its streams, so this one is cut short.
    eof = await eof_of(*messages, ending=Ending(cut_short=True))
    assert eof.status == status
    assert eof.run_progress.derived.status == status
    assert eof.request_progress.derived.status == status


@pytest.mark.parametrize("cut", [True, False])
async def test_has_more_is_set_exactly_when_the_request_was_cut_short(cut: bool) -> None:
    ending = Ending()
    if cut:
        ending.cut()
    assert (await eof_of(checkpoint("a"), ending=ending)).has_more is cut


async def test_has_more_is_set_after_a_cut_even_if_every_stream_is_final() -> None:
    ending = Ending(cut_short=True)
    eof = await eof_of(completed("a"), completed("b"), ending=ending)
    assert eof.has_more
    assert eof.status == RUN_STATUS_SUCCEEDED


async def test_has_more_is_set_after_a_cut_with_errored_and_unfinished_streams() -> None:
    assert (await eof_of(errored("a"), ending=Ending(cut_short=True))).has_more


async def test_has_more_is_not_set_after_a_failure() -> None:
    failed = Ending(cut_short=True, failure_message="it threw")
    assert not (await eof_of(ending=failed)).has_more
    assert not (await eof_of(connection_failed("gone"), ending=Ending(cut_short=True))).has_more


async def test_a_connector_that_failed_fails_the_run_and_keeps_its_checkpoints() -> None:
    ending = Ending()
    ending.fail("the cause")
    ending.fail("what came of it")
    messages = await reduced(checkpoint("a", "1"), completed("a"), completed("b"), ending=ending)
    eof = messages[-1].eof
    assert eof.status == RUN_STATUS_FAILED
    assert eof.failure_message == "the cause"
    assert eof.run_progress.derived.status == RUN_STATUS_FAILED
    assert messages[-2].progress == eof.run_progress
    assert eof.ending_state.source.streams == {"a": "1"}


async def test_a_continuation_adds_to_the_run_and_starts_the_request_at_zero() -> None:
    first = await eof_of(
        started("a"),
        record_batch("a", b"{}"),
        rows_written("a", inserted=1),
        checkpoint("a"),
        errored("b"),
    )
    second = await eof_of(
        started("a"),
        record_batch("a", b"{}", b"{}"),
        rows_written("a", updated=2),
        checkpoint("a"),
        completed("a"),
        state=first.ending_state,
        streams=["a"],
    )
    assert second.run_progress.streams["a"].record_count == 3
    assert second.request_progress.streams["a"].record_count == 2
    assert second.run_progress.streams["a"].rows == RowCounts(inserted=1, updated=2)
    assert second.request_progress.streams["a"].rows == RowCounts(updated=2)
    assert second.run_progress.started_at == first.run_progress.started_at
    assert second.run_progress.streams["b"].message == "it broke"
    assert second.status == RUN_STATUS_FAILED
    assert set(second.request_progress.streams) == {"a"}


async def test_a_failed_connection_of_an_earlier_request_is_dropped() -> None:
    first = await eof_of(connection_failed("gone"))
    assert first.run_progress.connection_status.message == "gone"
    second = await eof_of(completed("a"), completed("b"), state=first.ending_state)
    assert second.status == RUN_STATUS_SUCCEEDED
    assert not second.run_progress.HasField("connection_status")


MESSAGES = st.sampled_from(
    [
        build(name)
        for name in ("a", "b")
        for build in (started, completed, skipped, errored, checkpoint)
    ]
    + [record_batch(name, *[b"{}"] * count) for name in ("a", "b") for count in (1, 3)]
    + [rows_written(name, inserted=1, unchanged=2) for name in ("a", "b")]
    + [global_checkpoint(), log("x"), checkpoint("unselected"), completed("unselected")]
)


@for_any(messages=st.lists(MESSAGES), rest=st.lists(MESSAGES))
async def test_a_run_in_two_requests_equals_a_run_in_one(
    messages: list[Message], rest: list[Message]
) -> None:
    first = await eof_of(*messages)
    unfinished = {
        name
        for name, stream in first.run_progress.streams.items()
        if stream.status in {StreamProgress.STATUS_NOT_STARTED, StreamProgress.STATUS_STARTED}
    }
    # The second request's source reads only the unfinished streams. Shared checkpoints never cover
    # a stream that errored in the first one.
    rest = [message for message in rest if stream_name(message) in {*unfinished, ""}]
    ending = Ending(
        errored_streams=ErroredStreams(
            name
            for name, stream in first.run_progress.streams.items()
            if stream.status == StreamProgress.STATUS_ERRORED
        )
    )
    second = await eof_of(
        *rest, state=first.ending_state, streams=sorted(unfinished), ending=ending
    )
    whole = await eof_of(*messages, *rest)
    assert second.status == whole.status
    assert second.ending_state.source == whole.ending_state.source
    assert second.run_progress.streams == whole.run_progress.streams
    assert second.run_progress.global_state_count == whole.run_progress.global_state_count
    total = second.run_progress.derived
    streams = second.run_progress.streams.values()
    assert total.total_record_count == sum(stream.record_count for stream in streams)
    assert total.total_state_count == sum(stream.state_count for stream in streams)


async def test_a_source_that_ends_with_unfinished_streams_fails() -> None:
    messages = (completed("a"), started("b"))
    eof = await eof_of(*messages)
    assert eof.status == RUN_STATUS_FAILED
    assert eof.failure_message == "the source ended without finishing these streams: b"
    assert not eof.has_more


async def test_a_source_that_was_cut_short_need_not_finish_its_streams() -> None:
    eof = await eof_of(completed("a"), started("b"), ending=Ending(True))
    assert eof.status == RUN_STATUS_STARTED
    assert eof.failure_message == ""


async def test_a_failure_is_the_reason_why_streams_are_unfinished() -> None:
    ending = Ending(failure_message="the connector's own words")
    eof = await eof_of(started("a"), ending=ending)
    assert eof.failure_message == "the connector's own words"


async def test_rejected_records_are_counted_and_the_run_succeeds() -> None:
    held = Message(rejected_records=RejectedRecords(held_record_count=5))
    messages = await reduced(
        started("a"),
        record_batch("a", *[b"{}"] * 4),
        rows_written("a", inserted=1, rejected=3),
        checkpoint("a"),
        completed("a"),
        skipped("b"),
        held,
    )
    eof = messages[-1].eof
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.held_rejected_record_count == 5
    assert held not in messages
    for progress in (eof.run_progress, eof.request_progress):
        assert progress.streams["a"].rejected_record_count == 3
        assert progress.streams["a"].rows == RowCounts(inserted=1, rejected=3)
        assert progress.derived.total_rejected_record_count == 3
        assert progress.derived.total_rows.rejected == 3


@pytest.mark.parametrize("rejected", [1000, 1001])
async def test_too_many_rejected_records_make_their_stream_errored(rejected: int) -> None:
    state = new_run()
    first = await eof_of(
        started("a"),
        record_batch("a", *[b"{}"] * 999),
        rows_written("a", rejected=999),
        checkpoint("a", "1"),
        state=state,
        ending=Ending(cut_short=True),
    )
    assert first.has_more
    last = rejected - 999
    ending = Ending()
    messages = await reduced(
        record_batch("a", *[b"{}"] * last),
        rows_written("a", rejected=last),
        checkpoint("a", "2"),
        completed("a"),
        skipped("b"),
        state=first.ending_state,
        ending=ending,
    )
    eof = messages[-1].eof
    stream = eof.run_progress.streams["a"]
    assert stream.rejected_record_count == rejected
    assert eof.run_progress.derived.total_rejected_record_count == rejected
    if rejected == 1000:
        assert eof.status == RUN_STATUS_SUCCEEDED
        assert eof.ending_state.source.streams["a"] == "2"
        return
    assert stream.status == StreamProgress.STATUS_ERRORED
    assert "more than 1,000 records" in stream.message
    assert eof.status == RUN_STATUS_FAILED
    assert ending.errored_streams.names == {"a"}
    assert eof.ending_state.source.streams["a"] == "1"
    [told] = [one for one in messages if one.stream_status.HasField("errored")]
    assert told.ts.seconds > 0


def given_up(event_id: str, attempts: int = 1) -> Message:
    letter = DeadLetter(event_id=event_id, attempt_count=attempts, reason="refused")
    return Message(dead_letter=letter)


async def test_the_eof_lists_each_dead_letter_once_and_the_run_succeeds() -> None:
    messages = await reduced(given_up("evt_1"), given_up("evt_2"), given_up("evt_1", 2), streams=())
    eof = messages[-1].eof
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert [(one.event_id, one.attempt_count) for one in eof.dead_letters] == [
        ("evt_1", 2),
        ("evt_2", 1),
    ]
    assert [one.dead_letter.event_id for one in messages if one.HasField("dead_letter")] == [
        "evt_1",
        "evt_2",
        "evt_1",
    ]


async def test_failed_pushed_events_fail_the_request_and_are_listed() -> None:
    pushed = {"streams": (), "beside_run": True, "caller_keeps_events": True}
    eof = await eof_of(given_up("evt_1"), given_up("evt_2"), **pushed)
    assert (eof.status, eof.has_more) == (RUN_STATUS_FAILED, False)
    assert eof.failure_message == "2 events failed, the first of them evt_1: refused"
    assert [one.event_id for one in eof.dead_letters] == ["evt_1", "evt_2"]
    alone = await eof_of(given_up("evt_1"), **pushed)
    assert alone.failure_message == "event evt_1 failed: refused"
    fine = await eof_of(record_batch("a"), **pushed)
    assert (fine.status, list(fine.dead_letters)) == (RUN_STATUS_SUCCEEDED, [])


@pytest.mark.parametrize("what", ["a failure", "a limit", "a connection", "a stream"])
async def test_no_pushed_event_is_listed_if_others_may_be_uncommitted(
    what: str,
) -> None:
    ending, messages = Ending(), [given_up("evt_1")]
    match what:
        case "a failure":
            ending.fail("broken")
        case "a limit":
            ending.cut()
        case "a connection":
            messages.append(connection_failed("away"))
        case _:
            messages.append(errored("a", "refused"))
    eof = await eof_of(
        *messages, streams=(), beside_run=True, caller_keeps_events=True, ending=ending
    )
    assert not eof.dead_letters
    assert eof.status == RUN_STATUS_FAILED or eof.has_more
