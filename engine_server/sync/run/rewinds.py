"""Correction of a request's state by the outcome of the comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import ResumeResult, Rewind
from engine_server.state.recorded_schemas import RecordedSchema
from engine_server.state.state import has_no_checkpoints
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, StreamProgress
from pipesync.v1.state_pb2 import LostInputs, RewoundStream, SyncRun, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One correction, and the facts that it depends on.

    Attributes:
        resumed: Outcome of the comparison.
        streams: Names of the selected streams, in order.
        ceiling: Time ceiling of a run that begins now.
        is_beside_run: Whether the request belongs to no run.
        can_reconcile: Whether both connectors support reconciling.
        follows_events: Whether the source emits deletions from events. With a state without
            checkpoints, earlier deletions may have been missed.
    """

    resumed: ResumeResult
    streams: Sequence[str]
    ceiling: Timestamp
    is_beside_run: bool
    can_reconcile: bool
    follows_events: bool

    def apply(self, state: SyncState) -> list[RewoundStream]:
        """Correct the state to match the destination.

        A rewound stream, and with it the run, becomes unfinished again. The stream is read up to
        now, because events after the run's earlier ceiling may have been applied to rows that are
        lost. If rows may remain that were deleted at the source since, the run starts over and
        reconciles.

        Returns:
            The rewound streams: the shared checkpoint first, then in the order of the selection.
        """
        begins_reconcile = self._must_reconcile(state)
        _apply_positions(state, self.resumed)
        rewound = [self._rewind_stream(state, rewind) for rewind in self._ordered_rewinds()]
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
        """Return whether the run must reconcile and does not yet."""
        if not self.can_reconcile or state.sync_run.reconcile:
            return False
        if self.follows_events and not self.is_beside_run and self._holds_unread(state):
            return True
        return any(_may_hold_deleted(rewind) for rewind in self.resumed.rewinds)

    def _holds_unread(self, state: SyncState) -> bool:
        """Return whether rows may be older than the run: of streams that it has yet to begin.

        They are there when it begins, or come with a backup that is restored during the run. Rows
        of events that were applied beside the run look the same, so others must have been lost.
        """
        if has_no_checkpoints(state):
            return bool(self.resumed.held_streams)
        unread = set(self.resumed.held_streams) - state.source.streams.keys()
        return bool(self.resumed.rewinds and unread)

    def _ordered_rewinds(self) -> list[Rewind]:
        places = {name: place for place, name in enumerate(["", *self.streams])}
        return sorted(
            self.resumed.rewinds, key=lambda rewind: places.get(rewind.stream, len(places))
        )

    def _rewind_stream(self, state: SyncState, rewind: Rewind) -> RewoundStream:
        checkpoint = rewind.checkpoint
        recorded = RecordedSchema.parse(rewind.stream_schema)
        is_reconciling = state.sync_run.reconcile and not state.sync_run.finished
        if is_reconciling and rewind.stream and not recorded.is_reconciling:
            # The recorded checkpoint covers rows that were not reconciled.
            checkpoint = None
        if not rewind.stream:
            state.source.shared = checkpoint or ""
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


def lost_inputs(resumed: ResumeResult) -> LostInputs | None:
    """Return the lost inputs; None when none are lost."""
    if not resumed.inputs_are_lost:
        return None
    return LostInputs(
        held=resumed.held_inputs, covered_by_reread=not resumed.lost_inputs_are_replayable
    )


def _may_hold_deleted(rewind: Rewind) -> bool:
    """Return whether rows may remain whose records were deleted at the source since."""
    if RecordedSchema.parse(rewind.stream_schema).is_reconciling:
        return True
    return bool(rewind.stream) and rewind.checkpoint is None and not rewind.is_empty


def _apply_positions(state: SyncState, resumed: ResumeResult) -> None:
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
