"""The rows being gathered for the next flushes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine_server.connectors.postgres.keys import KeyReader
from engine_server.connectors.postgres.rows import StreamRows
from pipesync.v1.message_pb2 import RecordBatch

MAX_BYTES = 8 * 1024 * 1024
# For so many rows a transaction of their own is worth its price, be it while Postgres has nothing
# else to do, or while there are rows of other streams as well.
WORTHWHILE_ROWS = 500
# Times as many as of one stream. More make statements larger, but nothing faster, and take memory.
_MOST_OF_ALL_STREAMS = 1.5
# Seconds. Long enough to gather many small pages, short enough for live progress.
MAX_AGE = 1.0


@dataclass(slots=True, kw_only=True)
class Gathered:
    """What was gathered of one stream.

    Attributes:
        place: Of the message that began it, among all messages.
        began: When that came, in seconds on the monotonic clock.
        rows: Its rows.
        byte_count: Of its messages.
    """

    place: int
    began: float
    rows: StreamRows = field(default_factory=StreamRows)
    byte_count: int = 0


class Batch:
    """Rows by stream; false when there are none.

    Args:
        max_rows: How many of one stream are enough.
        key_readers: For each stream, what tells its rows apart.
    """

    def __init__(self, *, max_rows: int, key_readers: Mapping[str, KeyReader]) -> None:
        self._max_rows = max_rows
        self._worthwhile_rows = min(WORTHWHILE_ROWS, max_rows)
        self._key_readers = key_readers
        # Those that wait longest come first, so their places rise.
        self._streams: dict[str, Gathered] = {}
        self._row_count = 0
        self._byte_count = 0
        self._has_enough_of_one = False
        self._is_urgent = False

    def __bool__(self) -> bool:
        return bool(self._streams)

    @property
    def place(self) -> int | None:
        """The place of the first message that has rows in it; None when it is empty."""
        oldest = self._oldest()
        return oldest.place if oldest is not None else None

    @property
    def places(self) -> Mapping[str, int]:
        """For each stream, the place of the first message that has rows in it."""
        return {stream: gathered.place for stream, gathered in self._streams.items()}

    def add(self, records: RecordBatch, place: int) -> None:
        """Adds the records of one stream, which came in the message at ``place``."""
        rows = records.records[:]
        if not rows:
            return
        stream = records.stream
        gathered = self._streams.get(stream)
        if gathered is None:
            gathered = self._streams[stream] = Gathered(place=place, began=time.monotonic())
        gathered.rows.add(rows, self._key_readers.get(stream))
        gathered.rows.are_changes |= records.are_changes
        byte_count = records.ByteSize()
        gathered.byte_count += byte_count
        self._row_count += len(rows)
        self._byte_count += byte_count
        self._has_enough_of_one |= len(gathered.rows) >= self._max_rows

    def take(self) -> Mapping[str, Gathered]:
        """Answers what is to be flushed together, each stream whole, and keeps the others.

        A statement is of one stream and has a price, so streams that have many rows take turns
        while each gathers more; small ones share the next transaction, whosever it is.
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

    def hurry(self) -> None:
        """Has its rows, if there are any, wait no longer for more."""
        self._is_urgent = bool(self)

    def is_full(self) -> bool:
        """Whether no more should be added."""
        return (
            self._has_enough_of_one
            or self._row_count >= self._max_rows * _MOST_OF_ALL_STREAMS
            or self._byte_count >= MAX_BYTES
        )

    def is_worthwhile(self) -> bool:
        """Whether it may be flushed now if nothing else is."""
        return self.is_full() or self._row_count >= self._worthwhile_rows

    def seconds_until_due(self) -> float | None:
        """How long it may still wait for more rows; 0 when it is full; None when it is empty."""
        oldest = self._oldest()
        if oldest is None:
            return None
        if self._is_urgent or self.is_full():
            return 0.0
        return max(0.0, oldest.began + MAX_AGE - time.monotonic())

    def _oldest(self) -> Gathered | None:
        return next(iter(self._streams.values()), None)
