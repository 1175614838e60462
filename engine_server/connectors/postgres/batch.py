"""The rows being gathered for the next flush."""

import time
from collections import defaultdict
from collections.abc import Mapping

from engine_server.connectors.postgres.keys import KeyReader
from engine_server.connectors.postgres.rows import Rows, StreamRows
from pipesync.v1.message_pb2 import RecordBatch

MAX_BYTES = 8 * 1024 * 1024
# For so many rows a transaction of their own is worth its price while Postgres has nothing to do.
# While it has, more may gather: the price is then shared by more of them.
_WORTHWHILE_ROWS = 500
# Seconds. Long enough to gather many small pages, short enough for live progress.
MAX_AGE = 1.0


class Batch:
    """Rows by stream; false when there are none."""

    def __init__(self, *, max_rows: int, key_readers: Mapping[str, KeyReader]) -> None:
        self._max_rows = max_rows
        self._key_readers = key_readers
        self._rows: defaultdict[str, StreamRows] = defaultdict(StreamRows)
        self._row_count = 0
        self._byte_count = 0
        self._began = 0.0
        self._is_urgent = False

    def __bool__(self) -> bool:
        return self._row_count > 0

    def add(self, records: RecordBatch) -> None:
        """Adds the records of one stream."""
        rows = records.records[:]
        if not rows:
            return
        if not self:
            self._began = time.monotonic()
        of_stream = self._rows[records.stream]
        of_stream.add(rows, self._key_readers.get(records.stream))
        of_stream.are_changes |= records.are_changes
        self._row_count += len(rows)
        self._byte_count += records.ByteSize()

    def take(self) -> Rows:
        """Answers the rows and begins anew."""
        rows = self._rows
        self._rows = defaultdict(StreamRows)
        self._row_count = self._byte_count = 0
        self._is_urgent = False
        return rows

    def hurry(self) -> None:
        """Has its rows, if there are any, wait no longer for more."""
        self._is_urgent = bool(self)

    def is_full(self) -> bool:
        """Whether no more should be added."""
        return self._row_count >= self._max_rows or self._byte_count >= MAX_BYTES

    def is_worthwhile(self) -> bool:
        """Whether it may be flushed now if nothing else is."""
        return self.is_full() or self._row_count >= _WORTHWHILE_ROWS

    def seconds_until_due(self) -> float | None:
        """How long it may still wait for more rows; 0 when it is full; None when it is empty."""
        if not self:
            return None
        if self._is_urgent or self.is_full():
            return 0.0
        return max(0.0, self._began + MAX_AGE - time.monotonic())
