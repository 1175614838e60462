"""A request continues from the recorded checkpoints, and never beyond them."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.postgres.checkpoints.comparison import (
    ComparisonResult,
    RecordedState,
    compare,
)
from engine_server.connectors.postgres.checkpoints.entries import (
    GLOBAL,
    INPUTS,
    CheckpointEntry,
    destination_of,
    lineage_of,
)
from engine_server.connectors.protocols import ResumeRequest
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState

STREAMS = ["a", "b"]
EPOCHS = ["e1", "e2", "e3"]

positions = st.builds(CheckpointPosition, epoch=st.sampled_from(EPOCHS), number=st.integers(0, 5))
histories = st.lists(st.tuples(st.sampled_from(EPOCHS), st.integers(0, 5)), max_size=2).map(tuple)


def entry(
    name: str, epoch: str, number: int, history: tuple[tuple[str, int], ...] = ()
) -> CheckpointEntry:
    return CheckpointEntry(
        stream=name,
        checkpoint=None if name == INPUTS else f"{epoch}/{number}",
        stream_schema="",
        epoch=epoch,
        number=number,
        history=history,
        has_rows=True,
    )


def state(**named: tuple[str, int]) -> SyncState:
    made = SyncState(destination=destination_of("lineage"))
    for name, (epoch, number) in named.items():
        stream = GLOBAL if name == "all" else name
        if stream:
            made.source.streams[stream] = f"{epoch}/{number}"
        else:
            made.source.shared = f"{epoch}/{number}"
        made.positions[stream].CopyFrom(CheckpointPosition(epoch=epoch, number=number))
    return made


def compared(
    made: SyncState,
    entries: Mapping[str, CheckpointEntry],
    *,
    advanced_streams: list[str] = STREAMS,
    **request: object,
) -> ComparisonResult:
    return compare(
        ResumeRequest(
            account_id="",
            state=made,
            advanced_streams=advanced_streams,
            advances_shared_checkpoint=True,
            **request,  # type: ignore[arg-type]  # any field
        ),
        STREAMS,
        RecordedState(lineage_is_known=True, entries=entries, empty=()),
        epoch="new",
    )


def entries_of(*made: CheckpointEntry) -> Mapping[str, CheckpointEntry]:
    return {one.stream: one for one in made}


def test_a_moved_entry_keeps_its_history_and_gets_a_new_epoch() -> None:
    done = compared(state(a=("e1", 2)), entries_of(entry("a", "e1", 4)), advanced_streams=["a"])
    moved = done.entries["a"]
    assert (moved.checkpoint, moved.position) == (
        "e1/2",
        CheckpointPosition(epoch="new", number=2),
    )
    assert moved.history == (("e1", 4),)
    assert done.positions["a"] == moved.position


def test_a_stream_that_is_not_read_keeps_its_epoch() -> None:
    done = compared(state(a=("e1", 2)), entries_of(entry("a", "e1", 4)), advanced_streams=[])
    assert "a" not in done.entries
    assert done.positions["a"] == CheckpointPosition(epoch="e1", number=2)


def test_the_history_is_bounded() -> None:
    one = entry("a", "e1", 1, tuple((f"old{number}", 1) for number in range(20)))
    assert len(compared(state(a=("e1", 1)), entries_of(one)).entries["a"].history) == 20


def test_a_stream_read_again_for_lost_events_knows_no_past() -> None:
    entries = entries_of(entry("a", "e1", 4), entry(INPUTS, "i", 3))
    made = state(a=("e1", 4))
    made.inputs_position.CopyFrom(CheckpointPosition(epoch="i", number=5))
    done = compared(made, entries)
    assert done.forgets_others
    assert (done.entries["a"].checkpoint, done.entries["a"].history) == (None, ())


def test_inputs_are_lost_with_their_entry_where_the_lineage_had_any() -> None:
    for number, is_lost in (1, False), (2, True):
        made = state(a=("e1", 2))
        made.inputs_position.CopyFrom(CheckpointPosition(epoch="i", number=number))
        done = compared(made, {})
        assert done.inputs_are_lost == is_lost
        assert done.rewinds["a"].checkpoint is None
        assert done.inputs_position == CheckpointPosition(epoch="new", number=1)


def test_lost_inputs_are_replayable_from_the_last_common_position() -> None:
    made = state()
    made.inputs_position.CopyFrom(CheckpointPosition(epoch="i1", number=9))
    entries = entries_of(entry(INPUTS, "i2", 6, (("i1", 4),)))
    for number, is_replayable in ((3, True), (4, True), (5, False)):
        replayable = CheckpointPosition(epoch="i1", number=number)
        done = compared(made, entries, replayable_inputs=replayable)
        assert done.inputs_are_lost
        assert done.lost_inputs_are_replayable == is_replayable
        if is_replayable:
            assert done.held_inputs == CheckpointPosition(epoch="i1", number=4)
        assert done.inputs_position == CheckpointPosition(epoch="new", number=6)


@given(
    at=st.dictionaries(st.sampled_from([*STREAMS, GLOBAL]), positions),
    recorded=st.dictionaries(st.sampled_from([*STREAMS, GLOBAL]), st.tuples(positions, histories)),
    advanced_streams=st.lists(st.sampled_from(STREAMS), unique=True),
)
def test_a_request_continues_from_the_recorded_checkpoints_and_agrees_with_its_entries(
    at: Mapping[str, CheckpointPosition],
    recorded: Mapping[str, tuple[CheckpointPosition, tuple[tuple[str, int], ...]]],
    advanced_streams: list[str],
) -> None:
    entries = entries_of(
        *(entry(name, one.epoch, one.number, past) for name, (one, past) in recorded.items())
    )
    made = state(**{name or "all": (one.epoch, one.number) for name, one in at.items()})
    done = compared(made, entries, advanced_streams=advanced_streams)
    for name, one in at.items():
        rewind = done.rewinds.get(name)
        known = entries.get(name)
        if rewind is None:
            assert known is not None
            assert known.holds(one)
        elif rewind.checkpoint is not None:
            assert known is not None
            assert rewind.checkpoint == known.checkpoint
        now = f"{one.epoch}/{one.number}" if rewind is None else rewind.checkpoint
        if name in done.entries:
            assert done.entries[name].checkpoint == now
        assert (name in done.positions) == (now is not None)
    if GLOBAL in done.rewinds and done.rewinds[GLOBAL].checkpoint is None:
        assert all(done.rewinds[name].checkpoint is None for name in STREAMS if name in at)
    assert done.entries.keys() == {*advanced_streams, GLOBAL, INPUTS, *done.rewinds}
    again = compared(made, {**entries, **done.entries}, advanced_streams=advanced_streams)
    assert {name: one.checkpoint for name, one in again.rewinds.items()} == {
        name: one.checkpoint for name, one in done.rewinds.items()
    }, "a comparison that is repeated, its answer being lost, says something else"


def test_only_a_destination_text_of_the_engine_names_a_lineage() -> None:
    assert lineage_of(destination_of('a"b')) == 'a"b'
    for text in ("", "{", "[]", "{}", '{"lineage": 1}', "1", "[" * 100_000):
        assert lineage_of(text) == ""
