"""How messages fold into progress, state and eof."""

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from engine_server.barriers import Barriers
from engine_server.stages.reduce import PROGRESS_INTERVAL_NANOSECONDS, Ending, reduce
from engine_server.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RejectedRecords
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    RowCounts,
    StreamProgress,
)
from pipesync.v1.state_pb2 import DeadLetter, Eof, SyncState
from tests.engine_server.stages.sequences import gathered, given
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

SECOND = 1_000_000_000


class Clock:
    """Unix nanoseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


def new_run(run_id: str = "r1") -> SyncState:
    state = SyncState()
    state.sync_run.run_id = run_id
    state.sync_run.time_ceiling.seconds = 1_700_000_000
    return state


def at(clock: Clock, message: Message) -> Message:
    """The message, stamped with the clock's time."""
    message.ts.FromNanoseconds(clock())
    return message


async def reduced(
    *messages: Message,
    streams: Sequence[str] = ("a", "b"),
    state: SyncState | None = None,
    ending: Ending | None = None,
    beside_run: bool = False,
    senders_keep_events: bool = False,
) -> list[Message]:
    return await gathered(
        reduce(
            given(*messages),
            state=new_run() if state is None else state,
            streams=streams,
            ending=Ending() if ending is None else ending,
            beside_run=beside_run,
            senders_keep_events=senders_keep_events,
        )
    )


async def eof_of(*messages: Message, **arguments: object) -> Eof:
    return (await reduced(*messages, **arguments))[-1].eof  # type: ignore[arg-type]  # as reduced has them


def kinds(messages: Sequence[Message]) -> list[str | None]:
    return [message.WhichOneof("payload") for message in messages]


async def test_the_run_comes_first_then_the_messages_then_progress_and_eof() -> None:
    state = new_run()
    messages = await reduced(log("x"), checkpoint("a"), state=state)
    assert kinds(messages) == ["sync_run", "log", "source_state", "progress", "eof"]
    assert messages[0].sync_run.run_id == "r1"
    assert {messages[place].emitted_by for place in (0, 3, 4)} == {"engine"}


async def test_the_last_checkpoint_of_each_stream_is_in_the_ending_state() -> None:
    eof = await eof_of(
        checkpoint("a", '{"n": 1.0}'),
        global_checkpoint('{"cursor": 1}'),
        checkpoint("b", '{"n": 1}'),
        checkpoint("a", '{"n": 2.0}'),
        global_checkpoint('{"cursor": 2}'),
    )
    source = eof.ending_state.source
    assert source.streams == {"a": '{"n": 2.0}', "b": '{"n": 1}'}
    assert getattr(source, "global") == '{"cursor": 2}'


async def test_progress_comes_five_times_a_second_at_most() -> None:
    clock = Clock()

    async def messages() -> AsyncIterator[Message]:
        for _ in range(100):
            clock.now += PROGRESS_INTERVAL_NANOSECONDS // 10
            yield at(clock, record_batch("a", b"{}"))

    reducing = reduce(messages(), state=new_run(), streams=["a"], ending=Ending(), clock=clock)
    elapsed = [
        message.progress.elapsed_ms
        for message in await gathered(reducing)
        if message.HasField("progress")
    ]
    *throttled, last = elapsed
    # The first message came 20 ms after the beginning, and progress counts from it.
    assert throttled == list(range(180, 2000, 200))
    assert last == throttled[-1]


async def test_progress_comes_at_once_when_a_stream_changes_status() -> None:
    messages = await reduced(started("a"), record_batch("a", b"{}"), started("a"), completed("a"))
    assert kinds(messages[1:-2]) == [
        "stream_status",
        "progress",
        "record_batch",
        "stream_status",
        "stream_status",
        "progress",
    ]
    assert messages[2].progress.streams["a"].status == StreamProgress.STATUS_STARTED
    assert messages[6].progress.streams["a"].status == StreamProgress.STATUS_COMPLETED


async def test_nothing_that_comes_of_a_stream_after_it_errored_hides_it() -> None:
    ending = Ending()
    messages = await reduced(
        checkpoint("a", "1"),
        errored("a", "refused"),
        checkpoint("a", "2"),
        record_batch("a", b"{}"),
        completed("a"),
        checkpoint("b", "1"),
        completed("b"),
        ending=ending,
    )
    eof = messages[-1].eof
    assert ending.refused_streams == {"a"}
    assert eof.ending_state.source.streams == {"a": "1", "b": "1"}
    assert eof.run_progress.streams["a"].status == StreamProgress.STATUS_ERRORED
    assert eof.run_progress.streams["a"].message == "refused"
    assert eof.run_progress.streams["a"].record_count == 0
    assert eof.status == RUN_STATUS_FAILED
    assert not eof.failure_message
    assert completed("a") not in messages


@pytest.mark.parametrize(
    ("excluded", "kept"), [((), '{"n": 1}'), (("b",), '{"n": 1}'), (("a", "b"), '{"n": 2}')]
)
async def test_no_checkpoint_of_all_streams_accounts_for_one_that_errored(
    excluded: Sequence[str], kept: str
) -> None:
    later = global_checkpoint('{"n": 2}')
    later.source_state.excluded_streams.extend(excluded)
    messages = await reduced(global_checkpoint('{"n": 1}'), errored("a"), later)
    assert getattr(messages[-1].eof.ending_state.source, "global") == kept
    assert (later in messages) == (kept == '{"n": 2}')


async def test_a_stream_that_errored_earlier_in_the_run_is_accounted_for_no_more() -> None:
    eof = await eof_of(global_checkpoint(), completed("b"), ending=Ending(refused_streams={"a"}))
    assert not getattr(eof.ending_state.source, "global")


async def test_a_barrier_is_told_of_when_it_has_passed_and_goes_no_further() -> None:
    barriers, passed = Barriers(), list[int]()
    first, second = (barriers.put(lambda number=number: passed.append(number)) for number in (1, 2))  # type: ignore[misc]
    reducing = reduce(
        given(record_batch("a", b"{}"), first, completed("a"), second, first),
        state=new_run(),
        streams=["a"],
        ending=Ending(),
        barriers=barriers,
    )
    told = [(message.WhichOneof("payload"), list(passed)) async for message in reducing]
    assert [turn for turn in told if turn[0] in ("record_batch", "stream_status", "eof")] == [
        ("record_batch", []),
        ("stream_status", [1]),
        ("eof", [1, 2]),
    ]
    assert "barrier" not in {kind for kind, _ in told}


async def test_a_request_beside_the_run_leaves_it_as_it_is_and_counts_for_itself() -> None:
    first = await eof_of(record_batch("a", b"{}"), ending=Ending(cut_short=True))
    beside = reduce(
        given(record_batch("b", b"{}", b"{}"), global_checkpoint('{"n": 1}')),
        state=first.ending_state,
        streams=(),
        ending=Ending(),
        beside_run=True,
    )
    messages = await gathered(beside)
    assert kinds(messages[:1]) == ["record_batch"]
    eof = messages[-1].eof
    assert (eof.status, eof.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert eof.ending_state.sync_run == first.ending_state.sync_run
    assert getattr(eof.ending_state.source, "global") == '{"n": 1}'
    assert set(eof.run_progress.streams) == {"b"}
    assert eof.run_progress.streams["b"].record_count == 2


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
    # A source that ends by itself has to finish its streams: this one was cut.
    eof = await eof_of(*messages, ending=Ending(cut_short=True))
    assert eof.status == status
    assert eof.run_progress.derived.status == status
    assert eof.request_progress.derived.status == status


@pytest.mark.parametrize("cut", [True, False])
async def test_there_is_more_exactly_when_the_request_was_cut_short(cut: bool) -> None:
    ending = Ending()
    if cut:
        ending.cut()
    assert (await eof_of(checkpoint("a"), ending=ending)).has_more is cut


async def test_there_is_more_after_a_cut_even_when_every_stream_is_done() -> None:
    ending = Ending(cut_short=True)
    eof = await eof_of(completed("a"), completed("b"), ending=ending)
    assert eof.has_more
    assert eof.status == RUN_STATUS_SUCCEEDED


async def test_there_is_more_after_a_cut_when_one_stream_errored_and_others_wait() -> None:
    assert (await eof_of(errored("a"), ending=Ending(cut_short=True))).has_more


async def test_there_is_no_more_after_a_failure() -> None:
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


async def test_a_continuation_counts_on_in_the_run_and_anew_in_the_request() -> None:
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


async def test_a_connection_that_failed_earlier_in_the_run_is_tried_anew() -> None:
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
async def test_a_run_in_two_requests_comes_to_the_same_as_in_one(
    messages: list[Message], rest: list[Message]
) -> None:
    first = await eof_of(*messages)
    unfinished = {
        name
        for name, stream in first.run_progress.streams.items()
        if stream.status in {StreamProgress.STATUS_NOT_STARTED, StreamProgress.STATUS_STARTED}
    }
    # The second request's source reads the unfinished streams only. A stream that errored in the
    # first one keeps that from all checkpoints of all streams.
    rest = [message for message in rest if stream_name(message) in {*unfinished, ""}]
    ending = Ending(
        refused_streams={
            name
            for name, stream in first.run_progress.streams.items()
            if stream.status == StreamProgress.STATUS_ERRORED
        }
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


async def test_a_source_that_ends_by_itself_must_have_finished_its_streams() -> None:
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
async def test_too_many_rejected_records_of_a_run_err_their_stream(rejected: int) -> None:
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
    assert ending.refused_streams == {"a"}
    assert eof.ending_state.source.streams["a"] == "1"
    [told] = [one for one in messages if one.stream_status.HasField("errored")]
    assert told.ts.seconds > 0


def given_up(event_id: str, attempts: int = 1) -> Message:
    letter = DeadLetter(event_id=event_id, attempt_count=attempts, reason="refused")
    return Message(dead_letter=letter)


async def test_the_eof_lists_each_event_that_was_given_up_once_and_the_run_succeeds() -> None:
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


async def test_pushed_events_that_fail_fail_the_request_which_vouches_for_all_others() -> None:
    pushed = {"streams": (), "beside_run": True, "senders_keep_events": True}
    eof = await eof_of(given_up("evt_1"), given_up("evt_2"), **pushed)
    assert (eof.status, eof.has_more) == (RUN_STATUS_FAILED, False)
    assert eof.failure_message == "2 events failed, the first of them evt_1: refused"
    assert [one.event_id for one in eof.dead_letters] == ["evt_1", "evt_2"]
    alone = await eof_of(given_up("evt_1"), **pushed)
    assert alone.failure_message == "event evt_1 failed: refused"
    fine = await eof_of(record_batch("a"), **pushed)
    assert (fine.status, list(fine.dead_letters)) == (RUN_STATUS_SUCCEEDED, [])


@pytest.mark.parametrize("what", ["a failure", "a limit", "a connection", "a stream"])
async def test_where_it_is_unsure_what_became_of_the_others_no_pushed_event_is_listed(
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
        *messages, streams=(), beside_run=True, senders_keep_events=True, ending=ending
    )
    assert not eof.dead_letters
    assert eof.status == RUN_STATUS_FAILED or eof.has_more
