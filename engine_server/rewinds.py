"""Corrections of a request's state, by the outcome of its destination's comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import Resumed, Rewind
from engine_server.recorded_schemas import RecordedSchema
from engine_server.state import has_no_checkpoints
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, StreamProgress
from pipesync.v1.state_pb2 import LostInputs, RewoundStream, SyncRun, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One correction, and the facts that it depends on.

    Attributes:
        resumed: The outcome of the comparison.
        streams: The names of the selected streams, in order.
        ceiling: Where what is read now ends in time.
        is_beside_run: Whether the request belongs to no run.
        can_reconcile: Whether both connectors can.
        follows_events: Whether events delete rows: those that a state without a checkpoint knows
            nothing of may have been missed.
    """

    resumed: Resumed
    streams: Sequence[str]
    ceiling: Timestamp
    is_beside_run: bool
    can_reconcile: bool
    follows_events: bool

    def apply(self, state: SyncState) -> list[RewoundStream]:
        """Put the state where the destination is.

        A stream that goes back is unfinished again, and so is the run. It is read up to now: the
        events behind the run's earlier end may have been applied to rows that are lost. Where rows
        may stay that were deleted at the source since, the run begins again, and reconciles.

        Returns:
            The streams that go back: the checkpoint of all streams first, then in the order of the
            selection.
        """
        begins_reconcile = self._must_reconcile(state)
        _take_positions(state, self.resumed)
        rewound = [self._go_back(state, rewind) for rewind in self._in_order()]
        if rewound and state.HasField("sync_run"):
            state.sync_run.finished = False
            state.sync_run.time_ceiling.CopyFrom(self.ceiling)
            _unfinish(state.sync_run, rewound)
        if begins_reconcile:
            state.sync_run.reconcile = True
            state.sync_run.finished = False
            state.sync_run.ClearField("progress")
        return rewound

    def _must_reconcile(self, state: SyncState) -> bool:
        """Whether the run is to compare what is held with what is read, and does not yet."""
        if not self.can_reconcile or state.sync_run.reconcile:
            return False
        begins_over = has_no_checkpoints(state) and not self.is_beside_run
        if begins_over and self.follows_events and self.resumed.held_streams:
            return True
        return any(_may_hold_deleted(rewind) for rewind in self.resumed.rewinds)

    def _in_order(self) -> list[Rewind]:
        places = {name: place for place, name in enumerate(["", *self.streams])}
        return sorted(
            self.resumed.rewinds, key=lambda rewind: places.get(rewind.stream, len(places))
        )

    def _go_back(self, state: SyncState, rewind: Rewind) -> RewoundStream:
        checkpoint = rewind.checkpoint
        recorded = RecordedSchema.parse(rewind.stream_schema)
        is_reconciling = state.sync_run.reconcile and not state.sync_run.finished
        if is_reconciling and rewind.stream and not recorded.is_reconciling:
            # The recorded checkpoint accounts for rows that were not compared.
            checkpoint = None
        if not rewind.stream:
            setattr(state.source, "global", checkpoint or "")
        elif checkpoint is None:
            state.source.streams.pop(rewind.stream, None)
        else:
            state.source.streams[rewind.stream] = checkpoint
        if rewind.stream and (checkpoint is not None or rewind.is_empty):
            state.stream_schemas.pop(rewind.stream, None)
        if checkpoint is not None and recorded.entry:
            state.stream_schemas[rewind.stream] = recorded.entry
        return RewoundStream(
            stream=rewind.stream, from_start=checkpoint is None, reason=rewind.reason
        )


def lost_inputs(resumed: Resumed) -> LostInputs | None:
    """Return the lost inputs; None when none are lost."""
    if not resumed.inputs_are_lost:
        return None
    return LostInputs(
        held=resumed.held_inputs, covered_by_reread=not resumed.lost_inputs_are_replayable
    )


def _may_hold_deleted(rewind: Rewind) -> bool:
    """Whether rows may stay whose records were deleted at the source since."""
    if RecordedSchema.parse(rewind.stream_schema).is_reconciling:
        return True
    return bool(rewind.stream) and rewind.checkpoint is None and not rewind.is_empty


def _take_positions(state: SyncState, resumed: Resumed) -> None:
    state.destination = resumed.destination
    state.positions.clear()
    for name, position in resumed.positions.items():
        state.positions[name].CopyFrom(position)
    state.ClearField("inputs_position")
    if resumed.inputs_position is not None:
        state.inputs_position.CopyFrom(resumed.inputs_position)


def _unfinish(run: SyncRun, rewound: Sequence[RewoundStream]) -> None:
    if not run.HasField("progress"):
        return
    progress = run.progress
    progress.derived.status = RUN_STATUS_STARTED
    for each in rewound:
        if each.stream:
            progress.streams[each.stream].CopyFrom(
                StreamProgress(status=StreamProgress.STATUS_NOT_STARTED, rewound_reason=each.reason)
            )
