"""Interrupted runs resume without losing a record."""

from contextlib import aclosing

from hypothesis import given
from hypothesis import strategies as st

from engine_server.state.state import apply_checkpoint
from engine_server.sync.run.run import run_sync
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED, StreamProgress
from pipesync.v1.state_pb2 import Eof, SyncState
from tests.engine_server.plans import planned
from tests.engine_server.reads import Dataset, pages
from tests.engine_server.scripted import DestinationScript, SourceScript
from tests.messages import stream

COMPLETED = StreamProgress.STATUS_COMPLETED
ERRORED = StreamProgress.STATUS_ERRORED

NAMES = ("a", "b", "c")
# Number of records in each page of a stream.
SHAPES = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.integers(min_value=1, max_value=3), max_size=4), min_size=1
)
LIMITS = st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=20)
RUN_IDS = st.sampled_from(["", "r1"])
COMMIT_EVERY = st.integers(min_value=1, max_value=6)


def dataset_of(shapes: dict[str, list[int]]) -> Dataset:
    """Return pages of distinct records."""
    return {
        name: [
            [f'{{"id": "{number}.{index}"}}'.encode() for index in range(size)]
            for number, size in enumerate(sizes)
        ]
        for name, sizes in shapes.items()
    }


def source_of(dataset: Dataset) -> SourceScript:
    return SourceScript(streams=[stream(name) for name in dataset], read=pages(dataset))


def records_of(dataset: Dataset, *, but: frozenset[str] = frozenset()) -> dict[str, list[bytes]]:
    return {
        name: [record for page in stream_pages for record in page]
        for name, stream_pages in dataset.items()
        if stream_pages and name not in but
    }


async def finished(
    source: SourceScript, destination: DestinationScript, options: SyncOptions
) -> Eof:
    """Return the eof of a complete sync."""
    with planned(source, destination, options) as plan:
        async with aclosing(run_sync(plan)) as messages:
            return [message async for message in messages][-1].eof


async def left_after(
    count: int, source: SourceScript, destination: DestinationScript, options: SyncOptions
) -> list[Message]:
    """Return the first messages of a sync that its caller then cancels."""
    seen: list[Message] = []
    with planned(source, destination, options) as plan:
        async with aclosing(run_sync(plan)) as messages:
            async for message in messages:
                seen.append(message)
                if len(seen) == count:
                    break
    return seen


@given(
    shapes=SHAPES,
    limits=LIMITS,
    run_id=RUN_IDS,
    commit_every=COMMIT_EVERY,
    refuses=st.frozensets(st.sampled_from(NAMES), max_size=2),
)
async def test_looping_with_any_limits_yields_every_record_once(
    shapes: dict[str, list[int]],
    limits: list[int],
    run_id: str,
    commit_every: int,
    refuses: frozenset[str],
) -> None:
    dataset = dataset_of(shapes)
    source = source_of(dataset)
    destination = DestinationScript(commit_every=commit_every, refuses=refuses)
    state = SyncState()
    # At most twelve checkpoints, at least one per request, and a last request without any.
    for number in range(14):
        options = SyncOptions(run_id=run_id, state_limit=limits[number % len(limits)], state=state)
        eof = await finished(source, destination, options)
        state = eof.ending_state
        if not eof.has_more:
            break
    assert not eof.has_more
    assert destination.committed == records_of(dataset, but=refuses)
    refused = {name for name in refuses & shapes.keys() if dataset[name]}
    assert {name: one.status for name, one in eof.run_progress.streams.items()} == {
        name: ERRORED if name in refused else COMPLETED for name in dataset
    }
    assert eof.status == (RUN_STATUS_FAILED if refused else RUN_STATUS_SUCCEEDED)
    committed = sum(len(records) for records in destination.committed.values())
    assert eof.run_progress.derived.total_record_count == committed


@given(
    shapes=SHAPES,
    leave_after=st.lists(st.integers(min_value=1, max_value=25), max_size=5),
    run_id=RUN_IDS,
    commit_every=COMMIT_EVERY,
)
async def test_resuming_from_the_last_seen_checkpoint_loses_no_record(
    shapes: dict[str, list[int]], leave_after: list[int], run_id: str, commit_every: int
) -> None:
    dataset = dataset_of(shapes)
    source, destination = source_of(dataset), DestinationScript(commit_every=commit_every)
    state = SyncState()
    for count in leave_after:
        options = SyncOptions(run_id=run_id, state=state)
        for message in await left_after(count, source, destination, options):
            if message.HasField("sync_run"):
                state.sync_run.CopyFrom(message.sync_run)
            apply_checkpoint(state, message)
            if message.HasField("progress"):
                state.sync_run.progress.CopyFrom(message.progress)
    eof = await finished(source, destination, SyncOptions(run_id=run_id, state=state))
    assert eof.status == RUN_STATUS_SUCCEEDED
    expected = records_of(dataset)
    assert destination.committed.keys() == expected.keys()
    for name, records in expected.items():
        # Records that were committed after the caller left are written twice.
        assert set(destination.committed[name]) == set(records)
