"""Messages on their way through the writer: flushes in flight, and what must wait for them.

Every message but a log waits for the flushes of all records before it. A flush is one transaction.
At most two are in flight, side by side unless a row may be in both or one of them deletes rows for
good, and reading goes on beside them until the next batch is full.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from engine_server.connectors.postgres.batch import Batch
from engine_server.connectors.postgres.checkpoints.recorder import CheckpointRecorder
from engine_server.connectors.postgres.rows import Rows
from engine_server.connectors.postgres.writer import Outcome, Writer
from engine_server.read_ahead import ReadAhead
from engine_server.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RowsWritten, StreamStatus
from pipesync.v1.progress_pb2 import RowCounts

log = structlog.get_logger()

MAX_FLUSHES = 2
# A source may send checkpoint after checkpoint without a record, while a flush goes on.
_MAX_HELD = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flush:
    """Rows on their way, or none where nothing but checkpoints is to be recorded.

    Attributes:
        number: Tells it from others.
        rows: What it writes.
        places: For each stream, that of the first message whose rows are in it; the lowest first.
        end: The place of the first message that came too late for it.
        task: Answers what became of them.
    """

    number: int
    rows: Rows
    places: Mapping[str, int]
    end: int
    task: asyncio.Task[Outcome]

    @property
    def place(self) -> int | None:
        """The place of the first message whose rows are in it; None when there are no rows."""
        return next(iter(self.places.values()), None)


class Flow:
    """One write's messages: an async context manager, good for one ``passed_on``.

    They are read from its beginning on, and nothing of it is left behind at its end.
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
        # Of the next message.
        self._place = 0
        # Each with its place.
        self._held: deque[tuple[int, Message]] = deque()
        self._refused: set[str] = set()
        # Streams of which it was said that characters were replaced.
        self._replaced: set[str] = set()
        # A message was read, or a flush ended, or one is due.
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Starts to read."""
        self._reading = ReadAhead(self._messages, self._news.set)
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
        """Has each flush move the lines that ``recorder`` says. Called before ``passed_on``."""
        self._recorder = recorder

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Write nothing of these streams, and say why. Called before ``passed_on``."""
        for stream, reason in reasons.items():
            self._refused.add(stream)
            self._refuse(stream, reason, self._place)
            self._held.append((self._place, _errored(stream, reason)))
            self._place += 1

    async def passed_on(self) -> AsyncGenerator[Message, None]:
        """Yields the messages, each once the records before it are committed.

        Behind the last records of a stream in a flush comes what the flush did to its rows.

        Raises:
            ConnectorError: As the writer does. What was yielded before is committed.
        """
        reading = self._reading
        while True:
            self._news.clear()
            self._finish_flushes()
            uncommitted = self._uncommitted()
            while self._held and self._held[0][0] < uncommitted:
                yield self._held.popleft()[1]
            self._start_flush_if_due(reading.is_over)
            self._record_if_due()
            message = reading.take() if self._has_room() else None
            if message is None:
                if reading.is_over and not self._flushes:
                    return
                await self._wait_for_news()
            elif message.HasField("log"):
                yield message
            else:
                self._take(message)

    def _has_room(self) -> bool:
        return not self._batch.is_full() and len(self._held) < _MAX_HELD

    def _take(self, message: Message) -> None:
        if stream_name(message) in self._refused:
            return
        self._batch.add(message.record_batch, self._place)
        if message.HasField("barrier"):
            # Somebody waits to hear that these rows are committed.
            self._batch.hurry()
        if self._recorder is not None:
            message = self._recorder.take(message, self._place)
        self._held.append((self._place, message))
        self._place += 1

    def _start_flush_if_due(self, ended: bool) -> None:
        due = self._batch.seconds_until_due() == 0.0 or (ended and self._batch)
        if not self._flushes:
            due = due or self._batch.is_worthwhile()
        if not due or len(self._flushes) == MAX_FLUSHES:
            return
        gathered = self._batch.take()
        self._start_flush(
            {stream: of_stream.rows for stream, of_stream in gathered.items()},
            {stream: of_stream.place for stream, of_stream in gathered.items()},
        )

    def _record_if_due(self) -> None:
        """Records checkpoints that no flush will record soon: those that came without rows."""
        if self._recorder is None or self._flushes:
            return
        if self._recorder.is_due(self._uncommitted_places()):
            self._start_flush({}, {})

    def _start_flush(self, rows: Rows, places: Mapping[str, int]) -> None:
        # Of two flushes that hold the same row the later one must win.
        before = [
            flush.task for flush in self._flushes if self._writer.must_follow(flush.rows, rows)
        ]
        self._flush_count += 1
        number = self._flush_count
        task = asyncio.create_task(self._flush(number, rows, before))
        task.add_done_callback(lambda _: self._news.set())
        self._flushes.append(
            _Flush(number=number, rows=rows, places=places, end=self._place, task=task)
        )

    async def _flush(self, number: int, rows: Rows, before: list[asyncio.Task[Outcome]]) -> Outcome:
        if before:
            await asyncio.wait(before)
        last_script = partial(self._last_script, number) if self._recorder is not None else None
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
            self._recorder.record(number, outcome.filled)
        return outcome

    def _last_script(self, number: int, written: Collection[str]) -> str:
        """SQL for a flush to commit with, which records what lies before its rows and others'."""
        if self._recorder is None:
            return ""
        uncommitted = self._uncommitted_places(number, written)
        return self._recorder.script(number, written, uncommitted)

    def _uncommitted_places(
        self, number: int = 0, written: Collection[str] = ()
    ) -> Mapping[str, int]:
        """For each stream, the place of its first record that no commit brought.

        Args:
            number: A flush that is about to commit: what it writes counts as committed.
            written: The streams that it writes.
        """
        places = dict(self._batch.places)
        for flush in self._flushes:
            for stream, place in flush.places.items():
                if flush.number != number or stream not in written:
                    places[stream] = min(place, places.get(stream, place))
        return places

    def _finish_flushes(self) -> None:
        for flush in [flush for flush in self._flushes if flush.task.done()]:
            outcome = flush.task.result()
            for stream, reason in outcome.refused.items():
                self._refuse(stream, reason, flush.places[stream])
            self._tell(outcome.counts, flush)
            self._log_replaced(flush.rows, outcome.counts)
            self._flushes.remove(flush)

    def _log_replaced(self, rows: Rows, written: Collection[str]) -> None:
        """Says of each stream once that characters were replaced, and in which record first."""
        for stream in sorted(written):
            of_stream = rows[stream]
            if of_stream.replaced_count and stream not in self._replaced:
                self._replaced.add(stream)
                log.warning(
                    "characters_replaced",
                    stream=stream,
                    key=self._writer.key_of(stream, of_stream.first_replaced),
                    reason="Postgres holds no NUL and no lone surrogate; U+FFFD is in their place",
                )

    def _refuse(self, stream: str, reason: str, first: int) -> None:
        """Replaces what is held of ``stream`` from the place ``first`` on by one word of it."""
        if self._recorder is not None:
            self._recorder.fail(stream, first)
        kept: deque[tuple[int, Message]] = deque()
        told = False
        for place, message in self._held:
            if place < first or stream_name(message) != stream:
                kept.append((place, message))
            elif not told:
                kept.append((place, _errored(stream, reason)))
                told = True
        self._held = kept

    def _tell(self, counts: Mapping[str, RowCounts], flush: _Flush) -> None:
        """Puts the counts of a flush behind the last records that each of them counts."""
        untold = dict(counts)
        held: deque[tuple[int, Message]] = deque()
        for place, message in reversed(self._held):
            stream = message.record_batch.stream
            if place < flush.end and stream in untold:
                written = RowsWritten(
                    stream=stream,
                    rows=untold.pop(stream),
                    replaced_record_count=flush.rows[stream].replaced_count,
                )
                held.appendleft((place, Message(rows_written=written)))
            held.appendleft((place, message))
        self._held = held

    def _uncommitted(self) -> int:
        """The place of the first message that cannot be yielded yet.

        It brought rows which are not committed, or is a checkpoint that is not recorded.
        """
        places = [flush.place for flush in self._flushes]
        places.append(self._batch.place)
        if self._recorder is not None:
            places.append(self._recorder.first_place)
        return min((place for place in places if place is not None), default=self._place)

    async def _wait_for_news(self) -> None:
        due_in = self._batch.seconds_until_due()
        if due_in is None or len(self._flushes) == MAX_FLUSHES:
            await self._news.wait()
            return
        due = asyncio.get_running_loop().call_later(due_in, self._news.set)
        try:
            await self._news.wait()
        finally:
            due.cancel()


def _errored(stream: str, reason: str) -> Message:
    status = StreamStatus(stream=stream, errored=StreamStatus.Errored(error=reason))
    return Message(stream_status=status)
