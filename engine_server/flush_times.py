"""Durations of destinations' recent flushes, used to divide a short time limit."""

from collections import OrderedDict, deque
from hashlib import sha256

from pipesync.v1.catalog_pb2 import Connector

# Seconds reserved for a flush before any was measured.
FIRST_FLUSH_GUESS = 0.1
# Reserved in addition to the flush itself, for the engine and the response.
FLUSH_MARGIN_SECONDS = 0.04
# Largest share of the time limit reserved for a slow destination; reading gets the rest.
MAX_FLUSH_FRACTION = 0.5

_KEPT_FLUSHES = 8
_KEPT_DESTINATIONS = 1000


class RecentFlushes:
    """Durations of one destination's recent flushes."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT_FLUSHES)

    @property
    def estimate(self) -> float | None:
        """Estimated duration of the next flush in seconds; None before the first measurement.

        The estimate is the second longest duration, so that a single outlier, such as a flush that
        waits for its tables to be created, does not count.
        """
        ordered = sorted(self._seconds)
        return ordered[max(0, len(ordered) - 2)] if ordered else None

    def add(self, seconds: float) -> None:
        """Add the duration of a flush."""
        self._seconds.append(seconds)

    def forget_longest(self) -> None:
        """Drop the longest duration, which may be an outlier."""
        if self._seconds:
            self._seconds.remove(max(self._seconds))


class FlushTimes:
    """Recent flushes of each destination that this process writes to.

    They are a hint: without measurements, the engine uses ``FIRST_FLUSH_GUESS``.
    """

    def __init__(self) -> None:
        # Least recently used first.
        self._destinations: OrderedDict[bytes, RecentFlushes] = OrderedDict()

    def of(self, destination: Connector) -> RecentFlushes:
        """Return the flushes of one destination, identified by its type and configuration."""
        # A digest, because a configuration holds secrets.
        key = sha256(destination.SerializeToString(deterministic=True)).digest()
        recent = self._destinations.setdefault(key, RecentFlushes())
        self._destinations.move_to_end(key)
        if len(self._destinations) > _KEPT_DESTINATIONS:
            self._destinations.popitem(last=False)
        return recent


def seconds_for_flush(hard_seconds: float, flush_seconds: float | None) -> float:
    """Return the part of a time limit to reserve for a flush with a margin, at most half of it.

    Args:
        hard_seconds: Time limit in seconds.
        flush_seconds: Duration of a flush in seconds; None if none was measured.
    """
    needed = FIRST_FLUSH_GUESS
    if flush_seconds is not None:
        needed = 1.25 * flush_seconds + FLUSH_MARGIN_SECONDS
    return min(needed, hard_seconds * MAX_FLUSH_FRACTION)
