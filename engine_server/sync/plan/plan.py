"""Plan of one sync."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import SelectedStream
from engine_server.flush_times import RecentFlushes
from engine_server.progress.tracker import FINAL_STATUSES
from engine_server.stages.hard_limit import STOP_TIMEOUT
from engine_server.stages.time_limit import TimeLimit
from engine_server.state.stream_schemas import StreamSchemas
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from engine_server.sync.checks.selection import with_ceiling
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import StreamProgress
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPlan:
    """Parameters of one sync, validated beforehand.

    A sync belongs to a run, unless it applies inputs or reads only events.

    Attributes:
        source: Source of the records.
        destination: Destination of the records; None to return them to the caller.
        streams: The selected streams.
        state: State from ``state.begin_run``, updated in place by checkpoints. Outside a run, the
            state from the caller.
        state_limit: Number of checkpoints after which the sync ends; None for no limit.
        soft_limit: Time at which reading stops.
        hard_limit: Time at which the sync ends, on the event loop's clock in seconds; None for
            never.
        until: Upper bound in time of the records, for a sync outside a run; ``state`` has that of a
            run.
        inputs: Inputs to apply instead of reading history.
        events_only: Whether to read no history.
        listen: Whether the source may keep listening after the read, until it is closed.
        stop_seconds: Seconds that connectors may take to stop at the hard limit.
        limits_description: Name and value of each time limit, for the caller.
        recent_flushes: Recent flushes of the destination; those of this sync are added.
        schemas: Fields that the streams' history was read with; None outside a run.
        replayable_inputs: Position after which the caller can send all inputs again; None when it
            keeps no inputs.
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
    stop_seconds: float = STOP_TIMEOUT
    limits_description: str = ""
    recent_flushes: RecentFlushes = field(default_factory=RecentFlushes)
    schemas: StreamSchemas | None = None
    replayable_inputs: CheckpointPosition | None = None

    @property
    def is_beside_run(self) -> bool:
        """Whether the sync belongs to no run."""
        return bool(self.inputs) or self.events_only

    @property
    def has_pushed_events(self) -> bool:
        """Whether the caller pushed events, which it has to send again if they fail."""
        return any(not pushed.HasField("recent_events") for pushed in self.inputs)

    @property
    def has_work(self) -> bool:
        """Whether anything is left to do."""
        return self.is_beside_run or not self.state.sync_run.finished or bool(self.unfinished())

    def unfinished(self) -> list[SelectedStream]:
        """Return the streams whose history is read: those of the run without a final status."""
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
        """Return the names of the streams that errored in earlier requests of the run."""
        if self.is_beside_run:
            return set()
        return {
            name
            for name, stream in self.state.sync_run.progress.streams.items()
            if stream.status == StreamProgress.STATUS_ERRORED
        }
