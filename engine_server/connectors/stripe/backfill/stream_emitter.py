"""The emitting side of one stream's backfill."""

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.record_message import record_message
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.backfill.checkpoint import Checkpoint
from engine_server.connectors.stripe.lists.fetched_page import FetchedPage
from engine_server.connectors.stripe.lists.ranges import Range, difference, intersection
from pipesync.v1.catalog_pb2 import Stream, TimeRange
from pipesync.v1.message_pb2 import Message, StateCheckpoint, StreamStatus

# A run ends with the second in progress, and a page covers the time before its request. The second
# in progress, the one before it and the time of the request are no gap worth reporting.
_PRESENT_SECONDS = 3

# Outside a run, the end may lie this many seconds ahead: a read with a later end overlaps it by
# ``SETTLING_SECONDS``.
_AHEAD_OF_READ = 5


class StreamEmitter:
    """Emits the messages of one stream; its checkpoint accounts only for emitted records."""

    def __init__(
        self,
        stream: Stream,
        checkpoint: Checkpoint,
        *,
        limit: int | None,
        is_outside_run: bool = False,
    ) -> None:
        """Start without any message emitted.

        Args:
            stream: The stream.
            checkpoint: The ranges left to read.
            limit: The number of records of the history to read; None for all.
            is_outside_run: Whether the read belongs to no run, so that a later read has a later
                end.
        """
        self._stream = stream.name
        self._has_ranges = stream.supports_time_range
        self._checkpoint = checkpoint
        self._limit = limit
        self._is_outside_run = is_outside_run
        self._emitted_page: FetchedPage | None = None
        self.is_closed = False

    @property
    def is_complete(self) -> bool:
        """Whether the ranges are read, or the limit is reached."""
        left = self._checkpoint.unread
        if self._limit is not None and self._checkpoint.record_count >= self._limit:
            return all(self._checkpoint.is_history(part) for part in left)
        return not left

    def start(self) -> Iterator[Message]:
        """Yield the start of the stream, and the ranges that earlier requests completed."""
        window = self._checkpoint.window
        started = StreamStatus.Started()
        if self._has_ranges and window.is_bounded:
            started.time_range.CopyFrom(_time_range(window))
        yield self._status(StreamStatus(started=started))
        if all(part.is_bounded for part in self._checkpoint.unread):
            yield from self._ranges_completed(window)

    def compared(self, page: FetchedPage, compared_from: int) -> Iterator[Message]:
        """Yield a checkpoint that records how far a page was compared, but not the page itself.

        The page's records come before it.
        """
        yield from self._records(page)
        reached = page.part.with_cursor(page.part.cursor, compared_from)
        yield self._state(self._checkpoint.after(page.part, (reached,), 0))

    def page(self, page: FetchedPage) -> Iterator[Message]:
        """Yield the records of a page, then the checkpoint that accounts for them."""
        yield from self._records(page)
        self._checkpoint = self._checkpoint.after(
            page.part, page.left, len(page.records), self._read_until(page)
        )
        yield self._state(self._checkpoint)
        if not page.left:
            scope = page.part if page.part.is_bounded else self._checkpoint.window
            yield from self._ranges_completed(scope)

    def skip_history(self) -> Iterator[Message]:
        """Account for the requested ranges of a stream that has no history."""
        for part in self._checkpoint.remaining:
            yield from self.page(FetchedPage(part=part, left=(), records=[]))

    def complete(self) -> Iterator[Message]:
        """Yield the successful end of the stream."""
        self.is_closed = True
        yield self._status(StreamStatus(completed=StreamStatus.Completed()))

    def fail(self, error: RequestFailed) -> Iterator[Message]:
        """Yield the end of a stream that Stripe refused, or that failed for too long."""
        self.is_closed = True
        # A table that is half read or goes stale is no success.
        if error.is_unlistable and self._checkpoint.is_untouched:
            status = StreamStatus(skipped=StreamStatus.Skipped(reason=error.message))
        else:
            status = StreamStatus(errored=StreamStatus.Errored(error=error.message))
        yield self._status(status)

    def _read_until(self, page: FetchedPage) -> int | None:
        """Return the end of the page's coverage in time, if the checkpoint is to keep it."""
        end, asked = page.read_until, self._checkpoint.window.lt
        if end is None or asked is None or not self._is_outside_run:
            return end
        return None if asked - end <= _AHEAD_OF_READ else end

    def _records(self, page: FetchedPage) -> Iterator[Message]:
        """Yield the records of a page, once."""
        if page.records and page is not self._emitted_page:
            self._emitted_page = page
            yield record_message(self._stream, page.records)

    def _state(self, checkpoint: Checkpoint) -> Message:
        return Message(source_state=StateCheckpoint(stream=self._stream, data=checkpoint.to_json()))

    def _ranges_completed(self, scope: Range) -> Iterator[Message]:
        """Yield the accounted parts of ``scope``, in whole seconds as requested."""
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
