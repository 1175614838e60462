"""All that one sync needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import SelectedStream
from engine_server.flush_times import RecentFlushes
from engine_server.pipeline import ResolvedDestination, ResolvedSource
from engine_server.progress.tracker import FINAL_STATUSES
from engine_server.selection import with_ceiling
from engine_server.stages.hard_limit import PATIENCE_SECONDS
from engine_server.stages.time_limit import TimeLimit
from engine_server.stream_schemas import StreamSchemas
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import StreamProgress
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPlan:
    """All that one sync needs, checked beforehand.

    Attributes:
        source: Where records come from.
        destination: Where they go; None to hand them to the caller instead.
        streams: The selected streams.
        state: What ``state.begin_run`` made; the sync folds checkpoints into it.
        state_limit: How many checkpoints to take; None for all.
        soft_limit: When to stop reading.
        hard_limit: When to stop altogether, on the event loop's clock in seconds; None for never.
        until: Where what is read ends in time, of a sync beside the runs; the state has that of a
            run.
        inputs: What the source is to handle instead of reading its history.
        events_only: Whether it is to read no history.
        listen: Whether the source may go on after that, until it is cut.
        stop_seconds: How long connectors may take to stop at the hard limit.
        limits_description: The limits in time by name and value, for the caller.
        recent_flushes: How long the destination's flushes took lately; those of this sync are
            added.
        schemas: What the state remembers of the streams' fields; None for a sync beside the runs.
        replayable_inputs: The caller can send all inputs behind this position again; None when it
            keeps none.
    """

    source: ResolvedSource
    destination: ResolvedDestination | None
    streams: Sequence[SelectedStream]
    state: SyncState
    state_limit: int | None
    soft_limit: TimeLimit
    hard_limit: float | None
    until: Timestamp
    inputs: Sequence[SourceInput] = ()
    events_only: bool = False
    listen: bool = False
    stop_seconds: float = PATIENCE_SECONDS
    limits_description: str = ""
    recent_flushes: RecentFlushes = field(default_factory=RecentFlushes)
    schemas: StreamSchemas | None = None
    replayable_inputs: CheckpointPosition | None = None

    @property
    def is_beside_run(self) -> bool:
        """Whether it belongs to no run: then ``state`` is what the caller handed in."""
        return bool(self.inputs) or self.events_only

    @property
    def has_pushed_events(self) -> bool:
        """Whether the caller sent events, which it has to send again when they fail."""
        return any(not pushed.HasField("recent_events") for pushed in self.inputs)

    @property
    def has_work(self) -> bool:
        """Whether anything is left to do."""
        return self.is_beside_run or not self.state.sync_run.finished or bool(self.unfinished())

    def unfinished(self) -> list[SelectedStream]:
        """The streams whose history is read: those of the run that are in no final status yet."""
        if self.is_beside_run:
            return []
        run = self.state.sync_run
        return [
            with_ceiling(stream, run.time_ceiling)
            for stream in self.streams
            if stream.name not in run.progress.streams
            or run.progress.streams[stream.name].status not in FINAL_STATUSES
        ]

    def errored(self) -> set[str]:
        """The streams that earlier requests of the run gave up."""
        if self.is_beside_run:
            return set()
        return {
            name
            for name, stream in self.state.sync_run.progress.streams.items()
            if stream.status == StreamProgress.STATUS_ERRORED
        }
