"""Messages on their way through the writer: flushes in flight, and what must wait for them.

Every message but a log waits for the flushes of all records before it. A flush is one transaction.
At most two are in flight, and reading goes on beside them until a third batch is full.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine_server.connectors.postgres.batch import Batch
from engine_server.connectors.postgres.writer import Rows, Writer
from engine_server.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, StreamStatus

MAX_FLUSHES = 2
# A source may send checkpoint after checkpoint without a record, while a flush goes on.
_MAX_HELD = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flush:
    """A batch on its way.

    Attributes:
        number: 1 for the first, and so on.
        streams: Whose rows it has.
        task: Answers why, for each stream that it found refused.
    """

    number: int
    streams: frozenset[str]
    task: asyncio.Task[Mapping[str, str]]


class Flow:
    """One write's messages. Good for one ``pass_on``."""

    def __init__(self, writer: Writer, *, batch_rows: int) -> None:
        self._writer = writer
        self._batch = Batch(max_rows=batch_rows)
        self._flushes: list[_Flush] = []
        self._started = 0
        # Each with the number of the flush that it waits for.
        self._held: deque[tuple[int, Message]] = deque()
        self._refused: set[str] = set()

    async def pass_on(self, messages: AsyncIterator[Message]) -> AsyncGenerator[Message, None]:
        """Yields ``messages``, each once the records before it are committed.

        Raises:
            ConnectorError: As the writer does. What was yielded before is committed.
        """
        reading: asyncio.Task[Message | None] | None = None
        ended = False
        try:
            while True:
                self._start_flush_if_due(ended)
                if reading is None and not ended and self._has_room():
                    reading = asyncio.create_task(_next(messages))
                waiting: list[asyncio.Task[Any]] = [flush.task for flush in self._flushes]
                if reading is not None:
                    waiting.append(reading)
                if not waiting:
                    return
                await asyncio.wait(
                    waiting, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED
                )
                self._finish_flushes()
                if reading is not None and reading.done():
                    message = reading.result()
                    reading = None
                    if message is None:
                        ended = True
                    elif message.HasField("log"):
                        yield message
                    else:
                        self._take(message)
                while self._held and self._held[0][0] <= self._committed():
                    yield self._held.popleft()[1]
        finally:
            await self._end(reading)

    def _has_room(self) -> bool:
        return not self._batch.is_full() and len(self._held) < _MAX_HELD

    def _take(self, message: Message) -> None:
        if stream_name(message) in self._refused:
            return
        self._batch.add(message.record_batch)
        # Rows before it that are still gathered go with the next flush.
        self._held.append((self._started + bool(self._batch), message))

    def _start_flush_if_due(self, ended: bool) -> None:
        due = self._batch.seconds_until_due() == 0.0 or (ended and self._batch)
        if not due or len(self._flushes) == MAX_FLUSHES:
            return
        rows = self._batch.take()
        streams = frozenset(rows)
        # Two flushes of one stream may hold the same row, and the later one must win.
        before = [flush.task for flush in self._flushes if flush.streams & streams]
        self._started += 1
        task = asyncio.create_task(self._flush(rows, before))
        self._flushes.append(_Flush(number=self._started, streams=streams, task=task))

    async def _flush(
        self, rows: Rows, before: list[asyncio.Task[Mapping[str, str]]]
    ) -> Mapping[str, str]:
        if before:
            await asyncio.wait(before)
        refused = await self._writer.commit(
            {stream: records for stream, records in rows.items() if stream not in self._refused}
        )
        self._refused.update(refused)
        return refused

    def _finish_flushes(self) -> None:
        for flush in [flush for flush in self._flushes if flush.task.done()]:
            for stream, reason in flush.task.result().items():
                self._refuse(stream, reason, flush.number)
            self._flushes.remove(flush)

    def _refuse(self, stream: str, reason: str, number: int) -> None:
        """Replaces what is held of ``stream`` since its refused flush by one word of it."""
        status = StreamStatus(stream=stream, errored=StreamStatus.Errored(error=reason))
        kept: deque[tuple[int, Message]] = deque()
        told = False
        for waits_for, message in self._held:
            if waits_for < number or stream_name(message) != stream:
                kept.append((waits_for, message))
            elif not told:
                kept.append((waits_for, Message(stream_status=status)))
                told = True
        self._held = kept

    def _committed(self) -> int:
        """The number of the last flush up to which all are done."""
        return self._flushes[0].number - 1 if self._flushes else self._started

    def _patience(self) -> float | None:
        return None if len(self._flushes) == MAX_FLUSHES else self._batch.seconds_until_due()

    async def _end(self, reading: asyncio.Task[Message | None] | None) -> None:
        tasks: list[asyncio.Task[Any]] = [flush.task for flush in self._flushes]
        if reading is not None:
            tasks.append(reading)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)
