"""Request for one read of a source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.barriers import Barriers
from engine_server.connectors.interface.stored_rows import StoredRows
from engine_server.connectors.interface.streams import SelectedStream
from engine_server.errored_streams import ErroredStreams
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.state_pb2 import SourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Request for one read.

    Attributes:
        streams: The streams whose history the source reads, and no others.
        selected: All streams of the pipeline, including those that the run has finished: the source
            emits later changes to their records as well. Empty means the same as ``streams``.
        state: Checkpoints to resume from, possibly of more streams than are read. A stream without
            a checkpoint is read from the start.
        until: Upper bound of the run in time; later records belong to another run. None means now.
            No stream's ``time_range.lt`` is later.
        state_limit: Number of checkpoints that this request will still accept; None for no limit.
            Records beyond them should not be fetched.
        errored_streams: Streams that errored in the source or destination, in this request or an
            earlier one of the run. More are added during the read: the source checks them before
            each fetch and stops reading these streams. The engine drops a shared checkpoint
            that covers one of them; see ``StateCheckpoint.excluded_streams``.
        begins_run: Whether this is the first request of its run. The source then also reads ranges
            that earlier reads left out because they lay in the future, even if the requested
            bounds are the same.
        events_only: Whether to read no history, even if it is incomplete, but only the changes
            since the shared checkpoint.
        inputs: Inputs to apply instead of reading history; empty for none.
        listen: Whether to keep listening for changes after the read, until the generator is closed,
            if the source is configured to listen.
        barriers: Creates barriers, which report when earlier records are committed.
        stored_rows: Rows that the destination holds; None if they cannot be queried. The first
            query connects.
        reconcile: Whether to emit deletions for records that the destination holds and the source
            no longer has, within the history that is read. ``stored_rows`` is then set.
        on_listening: Called once the source has yielded everything and waits for changes. A limit
            that is reached later cuts nothing off.
        on_event_compared: Called with the id of each pushed event whose records depend on a result
            from ``stored_rows``. Such a result lacks records that concurrent requests have not
            committed.
    """

    streams: Sequence[SelectedStream]
    state: SourceState = field(default_factory=SourceState)
    until: Timestamp | None = None
    state_limit: int | None = None
    errored_streams: ErroredStreams = field(default_factory=ErroredStreams)
    begins_run: bool = False
    events_only: bool = False
    inputs: Sequence[SourceInput] = ()
    selected: Sequence[SelectedStream] = ()
    listen: bool = False
    barriers: Barriers = field(default_factory=Barriers)
    stored_rows: StoredRows | None = None
    reconcile: bool = False
    on_listening: Callable[[], None] = lambda: None
    on_event_compared: Callable[[str], None] = lambda _: None
