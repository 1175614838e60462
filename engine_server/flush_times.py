"""The durations of destinations' latest flushes, by which a short time limit is divided."""

from collections import OrderedDict, deque
from hashlib import sha256

from pipesync.v1.catalog_pb2 import Connector

# Seconds kept for the flush while none was measured.
FIRST_FLUSH_GUESS = 0.1
# Beyond the time that a flush takes, for its way through the engine and the answer's.
FLUSH_MARGIN_SECONDS = 0.04
# The largest share of the time limit that a slow destination gets: reading gets the rest.
MOST_FLUSH_FRACTION = 0.5

_KEPT_FLUSHES = 8
_KEPT_DESTINATIONS = 1000


class RecentFlushes:
    """The durations of one destination's latest flushes."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT_FLUSHES)

    @property
    def estimate(self) -> float | None:
        """How long the next one may take, in seconds; None when none was measured.

        It is the longest but one: a single exception, such as a flush that waits until the tables
        are made, says nothing about the next.
        """
        ordered = sorted(self._seconds)
        return ordered[max(0, len(ordered) - 2)] if ordered else None

    def add(self, seconds: float) -> None:
        """Adds one."""
        self._seconds.append(seconds)

    def forget_longest(self) -> None:
        """Drops the longest, which may have been an exception."""
        if self._seconds:
            self._seconds.remove(max(self._seconds))


class FlushTimes:
    """The recent flushes of each destination that this process writes to.

    They are a hint only: an engine that has none divides a limit by a guess.
    """

    def __init__(self) -> None:
        # The destinations used last are at the end.
        self._destinations: OrderedDict[bytes, RecentFlushes] = OrderedDict()

    def of(self, destination: Connector) -> RecentFlushes:
        """Return those of one destination, known by its type and configuration."""
        # A digest, since a configuration holds secrets.
        key = sha256(destination.SerializeToString(deterministic=True)).digest()
        recent = self._destinations.setdefault(key, RecentFlushes())
        self._destinations.move_to_end(key)
        if len(self._destinations) > _KEPT_DESTINATIONS:
            self._destinations.popitem(last=False)
        return recent


def seconds_for_flush(hard_seconds: float, flush_seconds: float | None) -> float:
    """How much of a time limit a flush needs, with a margin, at most half of it.

    Args:
        hard_seconds: The time limit.
        flush_seconds: How long a flush took; None when none was measured.
    """
    needed = FIRST_FLUSH_GUESS
    if flush_seconds is not None:
        needed = 1.25 * flush_seconds + FLUSH_MARGIN_SECONDS
    return min(needed, hard_seconds * MOST_FLUSH_FRACTION)
