"""Reduction of messages to progress, state and eof."""

from collections.abc import AsyncIterator, Sequence

import pytest

from engine_server.barriers import Barriers
from engine_server.errored_streams import ErroredStreams
from engine_server.stages.ending import Ending
from engine_server.stages.reduce import PROGRESS_INTERVAL_NANOSECONDS, reduce
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_SUCCEEDED,
    StreamProgress,
)
from tests.engine_server.stages.reductions import Clock, at, eof_of, kinds, new_run, reduced
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import (
    checkpoint,
    completed,
    errored,
    global_checkpoint,
    log,
    record_batch,
    started,
)


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
    assert source.shared == '{"cursor": 2}'


async def test_progress_is_yielded_at_most_five_times_a_second() -> None:
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
    # Progress counts from the first message, 20 ms after the beginning.
    assert throttled == list(range(180, 2000, 200))
    assert last == throttled[-1]


async def test_progress_is_yielded_at_once_when_a_stream_changes_status() -> None:
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


async def test_messages_of_a_stream_after_it_errored_are_dropped() -> None:
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
    assert ending.errored_streams.names == {"a"}
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
async def test_a_shared_checkpoint_that_covers_an_errored_stream_is_dropped(
    excluded: Sequence[str], kept: str
) -> None:
    later = global_checkpoint('{"n": 2}')
    later.source_state.excluded_streams.extend(excluded)
    messages = await reduced(global_checkpoint('{"n": 1}'), errored("a"), later)
    assert messages[-1].eof.ending_state.source.shared == kept
    assert (later in messages) == (kept == '{"n": 2}')


async def test_a_shared_checkpoint_that_covers_an_earlier_errored_stream_is_dropped() -> None:
    eof = await eof_of(
        global_checkpoint(), completed("b"), ending=Ending(errored_streams=ErroredStreams({"a"}))
    )
    assert not eof.ending_state.source.shared


async def test_a_barrier_is_passed_and_not_yielded() -> None:
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


async def test_a_request_outside_the_run_leaves_it_unchanged() -> None:
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
    assert eof.ending_state.source.shared == '{"n": 1}'
    assert set(eof.run_progress.streams) == {"b"}
    assert eof.run_progress.streams["b"].record_count == 2
