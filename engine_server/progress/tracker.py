"""Progress derived from messages; the cost per message does not depend on the number of streams."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from engine_server.progress.ranges import RangeSet
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, StreamStatus
from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    RUN_STATUS_SUCCEEDED,
    ConnectionStatus,
    Progress,
    RowCounts,
    RunStatus,
    StreamProgress,
)

FINAL_STATUSES = frozenset(
    {
        StreamProgress.STATUS_COMPLETED,
        StreamProgress.STATUS_SKIPPED,
        StreamProgress.STATUS_ERRORED,
    }
)
DATA_PAYLOADS = frozenset({"record_batch", "source_state", "stream_status"})


class ProgressTracker:
    """Progress of one run, or of one request.

    Pure: time is taken from the messages and from the argument of ``snapshot``.
    """

    def __init__(
        self,
        streams: Iterable[str],
        previous: Progress | None = None,
        *,
        counts_others: bool = False,
        rewound: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start from zero, or continue the progress of an earlier request.

        Args:
            streams: Names of the streams to finish.
            previous: Progress of the earlier request. Its streams that are in ``streams`` continue,
                and its other final streams are kept. Its ``connection_status`` is dropped, because
                this request connects again.
            counts_others: Whether to count messages of other streams, as completed streams.
            rewound: Reason by name of each of ``streams`` that is rewound.
        """
        self._counts_others = counts_others
        self._progress = Progress()
        self._ranges: dict[str, RangeSet] = {}
        self._statuses: Counter[StreamProgress.Status.ValueType] = Counter()
        wanted = set(streams)
        if previous is not None:
            self._progress.CopyFrom(previous)
            self._progress.ClearField("connection_status")
            for name, stream in previous.streams.items():
                if name not in wanted and stream.status not in FINAL_STATUSES:
                    del self._progress.streams[name]
        for name in wanted:
            stream = self._progress.streams[name]
            stream.status = stream.status or StreamProgress.STATUS_NOT_STARTED
            stream.rewound_reason = rewound.get(name, stream.rewound_reason)
        derived = self._progress.derived
        derived.total_record_count = derived.total_state_count = 0
        derived.total_rejected_record_count = 0
        derived.ClearField("total_rows")
        derived.total_replaced_record_count = 0
        for name, stream in self._progress.streams.items():
            self._statuses[stream.status] += 1
            self._ranges[name] = RangeSet(stream.completed_ranges)
            derived.total_record_count += stream.record_count
            derived.total_state_count += stream.state_count
            derived.total_rejected_record_count += stream.rejected_record_count
            derived.total_replaced_record_count += stream.replaced_record_count
            if stream.HasField("rows"):
                _add_counts(stream.rows, derived.total_rows)

    @property
    def status(self) -> RunStatus.ValueType:
        """The status by a failed connection, unfinished streams, errored streams, in this order."""
        if self._progress.connection_status.status == ConnectionStatus.STATUS_FAILED:
            return RUN_STATUS_FAILED
        if (
            self._statuses[StreamProgress.STATUS_NOT_STARTED]
            or self._statuses[StreamProgress.STATUS_STARTED]
        ):
            return RUN_STATUS_STARTED
        if self._statuses[StreamProgress.STATUS_ERRORED]:
            return RUN_STATUS_FAILED
        return RUN_STATUS_SUCCEEDED

    def rejected_record_count(self, stream: str) -> int:
        """Return how many records of a stream the destination rejected; 0 if it is unknown."""
        if stream not in self._ranges:
            return 0
        return self._progress.streams[stream].rejected_record_count

    def unfinished(self) -> list[str]:
        """Return the sorted names of the streams without a final status."""
        return sorted(
            name
            for name, stream in self._progress.streams.items()
            if stream.status not in FINAL_STATUSES
        )

    def observe(self, message: Message) -> bool:
        """Update the progress by one message.

        Messages of streams that are not to be finished are ignored unless ``counts_others``.

        Returns:
            Whether the status of a stream changed.
        """
        payload = message.WhichOneof("payload")
        if self._counts_others:
            self._admit(stream_name(message))
        if payload in DATA_PAYLOADS and not self._progress.HasField("started_at"):
            self._progress.started_at.CopyFrom(message.ts)
        match payload:
            case "record_batch":
                batch = message.record_batch
                if batch.stream in self._ranges:
                    count = len(batch.records)
                    self._progress.streams[batch.stream].record_count += count
                    self._progress.derived.total_record_count += count
            case "source_state":
                self._observe_checkpoint(message.source_state.stream)
            case "rows_written":
                written = message.rows_written
                if written.stream in self._ranges:
                    progress = self._progress.streams[written.stream]
                    progress.replaced_record_count += written.replaced_record_count
                    self._progress.derived.total_replaced_record_count += (
                        written.replaced_record_count
                    )
                    _add_counts(written.rows, progress.rows)
                    _add_counts(written.rows, self._progress.derived.total_rows)
                    progress.rejected_record_count += written.rows.rejected
                    self._progress.derived.total_rejected_record_count += written.rows.rejected
            case "stream_status":
                return self._observe_status(message.stream_status)
            case "connection_status":
                self._progress.connection_status.CopyFrom(message.connection_status)
        return False

    def snapshot(self, now_nanoseconds: int) -> Progress:
        """Return a copy of the progress at a time in Unix nanoseconds."""
        progress = Progress()
        progress.CopyFrom(self._progress)
        for name, ranges in self._ranges.items():
            del progress.streams[name].completed_ranges[:]
            progress.streams[name].completed_ranges.extend(ranges)
        derived = progress.derived
        derived.status = self.status
        if progress.HasField("started_at"):
            elapsed_nanoseconds = max(0, now_nanoseconds - progress.started_at.ToNanoseconds())
            progress.elapsed_ms = elapsed_nanoseconds // 1_000_000
            if elapsed := elapsed_nanoseconds / 1e9:
                states = progress.global_state_count + derived.total_state_count
                derived.records_per_second = derived.total_record_count / elapsed
                derived.states_per_second = states / elapsed
        return progress

    def _admit(self, stream: str) -> None:
        if stream and stream not in self._ranges:
            self._ranges[stream] = RangeSet(())
            self._progress.streams[stream].status = StreamProgress.STATUS_COMPLETED
            self._statuses[StreamProgress.STATUS_COMPLETED] += 1

    def _observe_checkpoint(self, stream: str) -> None:
        if not stream:
            self._progress.global_state_count += 1
        elif stream in self._ranges:
            self._progress.streams[stream].state_count += 1
            self._progress.derived.total_state_count += 1

    def _observe_status(self, message: StreamStatus) -> bool:
        if message.stream not in self._ranges:
            return False
        stream = self._progress.streams[message.stream]
        match message.WhichOneof("status"):
            case "started":
                if message.started.HasField("time_range"):
                    stream.total_range.CopyFrom(message.started.time_range)
                return self._set_status(stream, StreamProgress.STATUS_STARTED)
            case "range_completed":
                self._ranges[message.stream].add(message.range_completed.range)
                return False
            case "completed":
                return self._set_status(stream, StreamProgress.STATUS_COMPLETED)
            case "skipped":
                return self._set_status(
                    stream, StreamProgress.STATUS_SKIPPED, message.skipped.reason
                )
            case "errored":
                return self._set_status(
                    stream, StreamProgress.STATUS_ERRORED, message.errored.error
                )
        return False

    def _set_status(
        self,
        stream: StreamProgress,
        status: StreamProgress.Status.ValueType,
        reason: str = "",
    ) -> bool:
        """Set a stream's status, unless it is final; only an error replaces a final status.

        Returns:
            Whether the status changed.
        """
        current = stream.status
        if current == status or current == StreamProgress.STATUS_ERRORED:
            return False
        if current in FINAL_STATUSES and status != StreamProgress.STATUS_ERRORED:
            return False
        self._statuses[current] -= 1
        self._statuses[status] += 1
        stream.status = status
        stream.message = reason
        return True


def _add_counts(counts: RowCounts, total: RowCounts) -> None:
    total.inserted += counts.inserted
    total.updated += counts.updated
    total.unchanged += counts.unchanged
    total.deleted += counts.deleted
    total.rejected += counts.rejected
