"""Set of half-open time ranges, merged and ordered."""

import bisect
import math
from collections.abc import Iterable, Iterator

from pipesync.v1.catalog_pb2 import TimeRange

# Nanoseconds since 1970; infinite for an open bound.
Bound = float | int


class RangeSet:
    """Union of time ranges; overlapping and adjacent ranges are merged."""

    def __init__(self, ranges: Iterable[TimeRange] = ()) -> None:
        self._starts: list[Bound] = []
        self._ends: list[Bound] = []
        for time_range in ranges:
            self.add(time_range)

    def add(self, time_range: TimeRange) -> None:
        """Add a range; an empty range changes nothing. Takes O(log n) for n merged ranges."""
        start, end = _bounds(time_range)
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def __iter__(self) -> Iterator[TimeRange]:
        """Yield the merged ranges in order."""
        for start, end in zip(self._starts, self._ends, strict=True):
            time_range = TimeRange()
            if isinstance(start, int):
                time_range.gte.FromNanoseconds(start)
            if isinstance(end, int):
                time_range.lt.FromNanoseconds(end)
            yield time_range


def _bounds(time_range: TimeRange) -> tuple[Bound, Bound]:
    start = time_range.gte.ToNanoseconds() if time_range.HasField("gte") else -math.inf
    end = time_range.lt.ToNanoseconds() if time_range.HasField("lt") else math.inf
    return start, end
