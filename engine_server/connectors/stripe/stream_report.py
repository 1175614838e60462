"""The emitting side of one stream's backfill: what was read, and how it ended."""

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.record_message import record_message
from engine_server.connectors.stripe.checkpoint import Checkpoint
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.ranges import Range, difference, intersection
from engine_server.connectors.stripe.stream_fetch import FetchedPage
from pipesync.v1.catalog_pb2 import Stream, TimeRange
from pipesync.v1.message_pb2 import Message, StateCheckpoint, StreamStatus

# A run ends with the second that has begun, and a page shows what was over when it was asked for:
# that one, the one before it and the time of the request are no gap worth telling of.
_PRESENT_SECONDS = 3

# Without a run, an end may lie so many seconds ahead: a read with a later end begins earlier yet,
# by ``SETTLING_SECONDS``.
_AHEAD_OF_READ = 5


class StreamReport:
    """What was emitted of one stream; its checkpoint accounts for that and nothing else."""

    def __init__(
        self,
        stream: Stream,
        checkpoint: Checkpoint,
        *,
        limit: int | None,
        is_beside_runs: bool = False,
    ) -> None:
        """Has emitted nothing yet.

        Args:
            stream: Whose it is.
            checkpoint: What is left to read.
            limit: How many records of its history are enough.
            is_beside_runs: Whether the read belongs to no run: a later one has a later end.
        """
        self._stream = stream.name
        self._has_ranges = stream.supports_time_range
        self._checkpoint = checkpoint
        self._limit = limit
        self._is_beside_runs = is_beside_runs
        self._told: FetchedPage | None = None
        self.is_closed = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to read, or enough was."""
        left = self._checkpoint.unread
        if self._limit is not None and self._checkpoint.record_count >= self._limit:
            return all(self._checkpoint.is_history(part) for part in left)
        return not left

    def start(self) -> Iterator[Message]:
        """The stream begins; what earlier requests completed is told again."""
        window = self._checkpoint.window
        started = StreamStatus.Started()
        if self._has_ranges and window.is_bounded:
            started.time_range.CopyFrom(_time_range(window))
        yield self._status(StreamStatus(started=started))
        if all(part.is_bounded for part in self._checkpoint.unread):
            yield from self._ranges_completed(window)

    def compared(self, page: FetchedPage, compared_from: int) -> Iterator[Message]:
        """What was created from then on is compared: a checkpoint that accounts for no page.

        Before it come the records of the page that has shown it.
        """
        yield from self._records(page)
        reached = page.part.with_cursor(page.part.cursor, compared_from)
        yield self._state(self._checkpoint.after(page.part, (reached,), 0))

    def page(self, page: FetchedPage) -> Iterator[Message]:
        """A page was read: its records, then the checkpoint that accounts for them."""
        yield from self._records(page)
        self._checkpoint = self._checkpoint.after(
            page.part, page.left, len(page.records), self._read_until(page)
        )
        yield self._state(self._checkpoint)
        if not page.left:
            scope = page.part if page.part.is_bounded else self._checkpoint.window
            yield from self._ranges_completed(scope)

    def leave_out(self) -> Iterator[Message]:
        """There is no history to read: what is asked for is accounted for as it is."""
        for part in self._checkpoint.remaining:
            yield from self.page(FetchedPage(part=part, left=(), records=[]))

    def complete(self) -> Iterator[Message]:
        """The stream ends well."""
        self.is_closed = True
        yield self._status(StreamStatus(completed=StreamStatus.Completed()))

    def fail(self, error: RequestFailed) -> Iterator[Message]:
        """The stream ends because Stripe refused it, or failed for too long."""
        self.is_closed = True
        # A table that is half read, or goes stale, is nothing to call a success.
        if error.is_unlistable and self._checkpoint.is_untouched:
            status = StreamStatus(skipped=StreamStatus.Skipped(reason=error.message))
        else:
            status = StreamStatus(errored=StreamStatus.Errored(error=error.message))
        yield self._status(status)

    def _read_until(self, page: FetchedPage) -> int | None:
        """Where the stream ends in time as the page shows it, if that is to be kept."""
        end, asked = page.read_until, self._checkpoint.window.lt
        if end is None or asked is None or not self._is_beside_runs:
            return end
        return None if asked - end <= _AHEAD_OF_READ else end

    def _records(self, page: FetchedPage) -> Iterator[Message]:
        """The records of a page, once."""
        if page.records and page is not self._told:
            self._told = page
            yield record_message(self._stream, page.records)

    def _state(self, checkpoint: Checkpoint) -> Message:
        return Message(source_state=StateCheckpoint(stream=self._stream, data=checkpoint.to_json()))

    def _ranges_completed(self, scope: Range) -> Iterator[Message]:
        """What of ``scope`` is accounted for, in whole seconds as they were asked for."""
        window, accounted = self._checkpoint.window, self._checkpoint.accounted
        if window.lt is not None and accounted.lt is not None:
            is_present = window.lt - accounted.lt <= _PRESENT_SECONDS
            accounted = window if is_present else accounted
        told = intersection(scope, accounted)
        if told is None:
            return
        for part in difference(told, self._checkpoint.unread):
            if self._has_ranges and part.is_bounded:
                completed = StreamStatus.RangeCompleted(range=_time_range(part))
                yield self._status(StreamStatus(range_completed=completed))

    def _status(self, status: StreamStatus) -> Message:
        status.stream = self._stream
        return Message(stream_status=status)


def _time_range(part: Range) -> TimeRange:
    time_range = TimeRange()
    if part.gte is not None:
        time_range.gte.CopyFrom(Timestamp(seconds=part.gte))
    if part.lt is not None:
        time_range.lt.CopyFrom(Timestamp(seconds=part.lt))
    return time_range
