"""Rows gathered for the next flushes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine_server.connectors.postgres.rows.keys import KeyReader
from engine_server.connectors.postgres.rows.row import StreamRows
from pipesync.v1.message_pb2 import RecordBatch

MAX_BYTES = 8 * 1024 * 1024
# Rows of one stream that are worth a transaction of their own, whether Postgres is idle or other
# streams have rows as well.
WORTHWHILE_ROWS = 500
# Multiple of max_rows that all streams together may hold. Larger batches take memory, but write
# nothing faster.
_MOST_OF_ALL_STREAMS = 1.5
# Seconds. Long enough to gather many small pages, short enough for live progress.
MAX_AGE = 1.0


@dataclass(slots=True, kw_only=True)
class GatheredRows:
    """Rows gathered of one stream.

    Attributes:
        first_sequence_number: The sequence number of the first message with these rows.
        began: The arrival of that message, in seconds on the monotonic clock.
        rows: The rows.
        byte_count: The size of their messages.
    """

    first_sequence_number: int
    began: float
    rows: StreamRows = field(default_factory=StreamRows)
    byte_count: int = 0


class Batch:
    """Rows by stream; false when there are none.

    Args:
        max_rows: The number of rows of one stream at which the batch is full.
        key_readers: The key reader of each stream.
    """

    def __init__(self, *, max_rows: int, key_readers: Mapping[str, KeyReader]) -> None:
        self._max_rows = max_rows
        self._worthwhile_rows = min(WORTHWHILE_ROWS, max_rows)
        self._key_readers = key_readers
        # The oldest first, so the sequence numbers rise.
        self._streams: dict[str, GatheredRows] = {}
        self._row_count = 0
        self._byte_count = 0
        self._has_enough_of_one = False
        self._is_urgent = False

    def __bool__(self) -> bool:
        return bool(self._streams)

    @property
    def first_sequence_number(self) -> int | None:
        """The sequence number of the first message that has rows in it; None when it is empty."""
        oldest = self._oldest()
        return oldest.first_sequence_number if oldest is not None else None

    @property
    def first_sequence_numbers(self) -> Mapping[str, int]:
        """The sequence number of the first message of each stream that has rows in it."""
        return {
            stream: gathered.first_sequence_number for stream, gathered in self._streams.items()
        }

    def add(self, records: RecordBatch, sequence_number: int) -> None:
        """Add the records of one stream, which a message with this sequence number brought."""
        rows = records.records[:]
        if not rows:
            return
        stream = records.stream
        gathered = self._streams.get(stream)
        if gathered is None:
            gathered = self._streams[stream] = GatheredRows(
                first_sequence_number=sequence_number, began=time.monotonic()
            )
        gathered.rows.add(rows, self._key_readers.get(stream))
        gathered.rows.are_change_events |= records.are_change_events
        byte_count = records.ByteSize()
        gathered.byte_count += byte_count
        self._row_count += len(rows)
        self._byte_count += byte_count
        self._has_enough_of_one |= len(gathered.rows) >= self._max_rows

    def take(self) -> Mapping[str, GatheredRows]:
        """Remove and return the streams to flush together, each whole.

        Each statement writes one stream and has a fixed cost. So streams with many rows take turns,
        one in each transaction, while the others gather more; small streams share the next
        transaction.
        """
        large = [
            stream
            for stream, gathered in self._streams.items()
            if len(gathered.rows) >= self._worthwhile_rows
        ]
        taken, kept = self._streams, {}
        for stream in large[1:]:
            kept[stream] = taken.pop(stream)
        self._streams = kept
        self._row_count = sum(len(gathered.rows) for gathered in kept.values())
        self._byte_count = sum(gathered.byte_count for gathered in kept.values())
        self._has_enough_of_one = any(
            len(gathered.rows) >= self._max_rows for gathered in kept.values()
        )
        self._is_urgent &= bool(kept)
        return taken

    def flush_now(self) -> None:
        """Make the batch due now, if it has rows."""
        self._is_urgent = bool(self)

    def is_full(self) -> bool:
        """Return whether no more rows should be added."""
        return (
            self._has_enough_of_one
            or self._row_count >= self._max_rows * _MOST_OF_ALL_STREAMS
            or self._byte_count >= MAX_BYTES
        )

    def is_worthwhile(self) -> bool:
        """Return whether the batch may be flushed while no other flush is in flight."""
        return self.is_full() or self._row_count >= self._worthwhile_rows

    def seconds_until_due(self) -> float | None:
        """Return the seconds that it may wait for more rows; 0 when full, None when empty."""
        oldest = self._oldest()
        if oldest is None:
            return None
        if self._is_urgent or self.is_full():
            return 0.0
        return max(0.0, oldest.began + MAX_AGE - time.monotonic())

    def _oldest(self) -> GatheredRows | None:
        return next(iter(self._streams.values()), None)
