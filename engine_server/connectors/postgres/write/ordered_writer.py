"""Writes of the rows of a message stream, with every message passed on in order.

Every message but a log waits for the flushes of all records before it. A flush is one transaction.
At most two are in flight. They run concurrently unless a row may be in both or one of them deletes
rows permanently. Reading continues meanwhile until the next batch is full.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.rows.batch import Batch
from engine_server.connectors.postgres.rows.row import Rows
from engine_server.connectors.postgres.write.writer import CommitOutcome, Writer
from engine_server.read_ahead import ReadAhead
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RowsWritten, StreamStatus
from pipesync.v1.progress_pb2 import RowCounts

_log = structlog.get_logger(__name__)

MAX_FLUSHES = 2
# A source may send any number of checkpoints without a record during a flush.
_MAX_HELD = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flush:
    """A transaction in flight, without rows where it only records checkpoints.

    Attributes:
        flush_id: Identifies the flush.
        rows: The rows that it writes.
        first_sequence_numbers: By stream, the sequence number of the first message whose rows it
            writes; the lowest first.
        end: The sequence number of the first message behind it.
        task: Commits the rows.
    """

    flush_id: int
    rows: Rows
    first_sequence_numbers: Mapping[str, int]
    end: int
    task: asyncio.Task[CommitOutcome]

    @property
    def first_sequence_number(self) -> int | None:
        """The sequence number of the first message whose rows it writes; None without rows."""
        return next(iter(self.first_sequence_numbers.values()), None)


class OrderedWriter:
    """Writes the records of one message stream, and yields each message once it is committed.

    An async context manager that serves one call of ``committed``. It reads the messages from its
    beginning on, and has ended all its tasks at its end.
    """

    def __init__(
        self, writer: Writer, messages: AsyncIterator[Message], *, batch_rows: int
    ) -> None:
        self._writer = writer
        self._recorder: CheckpointRecorder | None = None
        self._messages = messages
        self._batch = Batch(max_rows=batch_rows, key_readers=writer.key_readers)
        self._flushes: list[_Flush] = []
        self._flush_count = 0
        self._next_sequence_number = 0
        # Messages that wait to be yielded, each with its sequence number.
        self._held: deque[tuple[int, Message]] = deque()
        self._refused: set[str] = set()
        # Streams whose replaced characters were logged.
        self._replaced: set[str] = set()
        # Set when a message was read, a flush ended, or a flush is due.
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start to read."""
        self._reading = ReadAhead(self._messages, self._changed.set)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks: list[asyncio.Task[Any]] = [flush.task for flush in self._flushes]
        tasks.append(self._reading.stop())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def record_with(self, recorder: CheckpointRecorder) -> None:
        """Record checkpoints with each flush. Called before ``committed``."""
        self._recorder = recorder

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Write no rows of these streams, and report their errors. Called before ``committed``."""
        for stream, reason in reasons.items():
            self._refused.add(stream)
            self._refuse(stream, reason, self._next_sequence_number)
            self._held.append((self._next_sequence_number, _errored(stream, reason)))
            self._next_sequence_number += 1

    async def committed(self) -> AsyncGenerator[Message, None]:
        """Yield the messages, each once the records before it are committed.

        A ``rows_written`` follows the last record batch of each stream in a flush.

        Raises:
            ConnectorError: As the writer raises it. All messages yielded before are committed.
        """
        reading = self._reading
        while True:
            self._changed.clear()
            self._finish_flushes()
            uncommitted = self._first_uncommitted()
            while self._held and self._held[0][0] < uncommitted:
                yield self._held.popleft()[1]
            self._start_flush_if_due(reading.is_over)
            self._record_if_due()
            message = reading.take() if self._has_room() else None
            if message is None:
                if reading.is_over and not self._flushes:
                    return
                await self._wait_for_change()
            elif message.HasField("log"):
                yield message
            else:
                self._accept(message)

    def _has_room(self) -> bool:
        return not self._batch.is_full() and len(self._held) < _MAX_HELD

    def _accept(self, message: Message) -> None:
        if stream_name(message) in self._refused:
            return
        self._batch.add(message.record_batch, self._next_sequence_number)
        if message.HasField("barrier"):
            # The source waits until these rows are committed.
            self._batch.flush_now()
        if self._recorder is not None:
            message = self._recorder.take(message, self._next_sequence_number)
        self._held.append((self._next_sequence_number, message))
        self._next_sequence_number += 1

    def _start_flush_if_due(self, ended: bool) -> None:
        due = self._batch.seconds_until_due() == 0.0 or (ended and self._batch)
        if not self._flushes:
            due = due or self._batch.is_worthwhile()
        if not due or len(self._flushes) == MAX_FLUSHES:
            return
        gathered = self._batch.take()
        self._start_flush(
            {stream: of_stream.rows for stream, of_stream in gathered.items()},
            {stream: of_stream.first_sequence_number for stream, of_stream in gathered.items()},
        )

    def _record_if_due(self) -> None:
        """Record checkpoints that arrived without rows, so that no flush would soon record them."""
        if self._recorder is None or self._flushes:
            return
        if self._recorder.is_due(self._first_uncommitted_by_stream()):
            self._start_flush({}, {})

    def _start_flush(self, rows: Rows, first_sequence_numbers: Mapping[str, int]) -> None:
        # Of two flushes with the same row, the later one must win.
        before = [
            flush.task for flush in self._flushes if self._writer.must_follow(flush.rows, rows)
        ]
        self._flush_count += 1
        flush_id = self._flush_count
        task = asyncio.create_task(self._flush(flush_id, rows, before))
        task.add_done_callback(lambda _: self._changed.set())
        self._flushes.append(
            _Flush(
                flush_id=flush_id,
                rows=rows,
                first_sequence_numbers=first_sequence_numbers,
                end=self._next_sequence_number,
                task=task,
            )
        )

    async def _flush(
        self, flush_id: int, rows: Rows, before: list[asyncio.Task[CommitOutcome]]
    ) -> CommitOutcome:
        if before:
            await asyncio.wait(before)
        last_script = partial(self._last_script, flush_id) if self._recorder is not None else None
        outcome = await self._writer.commit(
            {
                stream: of_stream
                for stream, of_stream in rows.items()
                if stream not in self._refused
            },
            last_script=last_script,
        )
        self._refused.update(outcome.refused)
        if self._recorder is not None:
            self._recorder.record(flush_id, outcome.filled)
        return outcome

    def _last_script(self, flush_id: int, written: Collection[str]) -> str:
        """Return SQL for a flush to commit with: it records checkpoints that nothing precedes."""
        if self._recorder is None:
            return ""
        uncommitted = self._first_uncommitted_by_stream(flush_id, written)
        return self._recorder.script(flush_id, written, uncommitted)

    def _first_uncommitted_by_stream(
        self, flush_id: int = 0, written: Collection[str] = ()
    ) -> Mapping[str, int]:
        """Return the sequence number of the first uncommitted record of each stream.

        Args:
            flush_id: A flush that is about to commit: its rows count as committed.
            written: The streams that it writes.
        """
        first = dict(self._batch.first_sequence_numbers)
        for flush in self._flushes:
            for stream, number in flush.first_sequence_numbers.items():
                if flush.flush_id != flush_id or stream not in written:
                    first[stream] = min(number, first.get(stream, number))
        return first

    def _finish_flushes(self) -> None:
        for flush in [flush for flush in self._flushes if flush.task.done()]:
            outcome = flush.task.result()
            for stream, reason in outcome.refused.items():
                self._refuse(stream, reason, flush.first_sequence_numbers[stream])
            self._queue_counts(outcome.counts, flush)
            self._log_replaced(flush.rows, outcome.counts)
            self._flushes.remove(flush)

    def _log_replaced(self, rows: Rows, written: Collection[str]) -> None:
        """Log once for each stream that characters were replaced, with the first record."""
        for stream in sorted(written):
            of_stream = rows[stream]
            if of_stream.replaced_count and stream not in self._replaced:
                self._replaced.add(stream)
                _log.warning(
                    "characters_replaced",
                    stream=stream,
                    key=self._writer.key_of(stream, of_stream.first_replaced),
                    reason="Postgres holds no NUL and no lone surrogate; U+FFFD is in their place",
                )

    def _refuse(self, stream: str, reason: str, first: int) -> None:
        """Replace the held messages of ``stream`` from ``first`` on by one errored status."""
        if self._recorder is not None:
            self._recorder.fail(stream, first)
        kept: deque[tuple[int, Message]] = deque()
        is_reported = False
        for number, message in self._held:
            if number < first or stream_name(message) != stream:
                kept.append((number, message))
            elif not is_reported:
                kept.append((number, _errored(stream, reason)))
                is_reported = True
        self._held = kept

    def _queue_counts(self, counts: Mapping[str, RowCounts], flush: _Flush) -> None:
        """Insert the counts of a flush, each behind the last record batch that it counts."""
        unreported = dict(counts)
        held: deque[tuple[int, Message]] = deque()
        for number, message in reversed(self._held):
            stream = message.record_batch.stream
            if number < flush.end and stream in unreported:
                written = RowsWritten(
                    stream=stream,
                    rows=unreported.pop(stream),
                    replaced_record_count=flush.rows[stream].replaced_count,
                )
                held.appendleft((number, Message(rows_written=written)))
            held.appendleft((number, message))
        self._held = held

    def _first_uncommitted(self) -> int:
        """Return the sequence number of the first message that cannot be yielded yet.

        Its rows are not committed, or it is a checkpoint that is not recorded.
        """
        numbers = [flush.first_sequence_number for flush in self._flushes]
        numbers.append(self._batch.first_sequence_number)
        if self._recorder is not None:
            numbers.append(self._recorder.first_sequence_number)
        return min(
            (number for number in numbers if number is not None), default=self._next_sequence_number
        )

    async def _wait_for_change(self) -> None:
        due_in = self._batch.seconds_until_due()
        if due_in is None or len(self._flushes) == MAX_FLUSHES:
            await self._changed.wait()
            return
        due = asyncio.get_running_loop().call_later(due_in, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            due.cancel()


def _errored(stream: str, reason: str) -> Message:
    status = StreamStatus(stream=stream, errored=StreamStatus.Errored(error=reason))
    return Message(stream_status=status)
