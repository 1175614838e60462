"""Heartbeats of the process's background loops, which reveal loops that have stalled."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum


class Loop(StrEnum):
    """Name of a background loop of the service; metrics use the values as labels."""

    GROUP_COMMIT = "group_commit"
    INBOX_PRUNING = "inbox_pruning"
    INBOX_WORKER = "inbox_worker"
    LEASE_RENEWAL = "lease_renewal"
    NOTIFICATIONS = "notifications"
    NOTIFICATION_POLLING = "notification_polling"
    POSTPONEMENT = "postponement"
    RUN_PRUNING = "run_pruning"
    SCHEDULER = "scheduler"
    STATE_STORING = "state_storing"
    TOKENS = "tokens"
    WATCHDOG = "watchdog"


class Heartbeat:
    """The heartbeat of one running loop."""

    def __init__(self, loop: Loop, timeout: float, clock: Callable[[], float]) -> None:
        """Start with a beat.

        Args:
            loop: The loop's name; several loops may share it.
            timeout: Seconds that a round may take before the loop counts as stalled.
            clock: A monotonic clock.
        """
        self.loop = loop
        self._timeout = timeout
        self._clock = clock
        self.beat()

    def beat(self, wait: float = 0.0) -> None:
        """Record that the loop begins or ends a round.

        Args:
            wait: Seconds that the loop intends to wait before its next beat.
        """
        self._last = self._clock()
        self._limit = self._last + wait + self._timeout

    @property
    def age(self) -> float:
        """Seconds since the last beat."""
        return self._clock() - self._last

    @property
    def is_stalled(self) -> bool:
        """Whether the next beat is overdue."""
        return self._clock() > self._limit


class Heartbeats:
    """The heartbeats of all loops that run in this process."""

    def __init__(
        self, *, timeout: float = 120.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with no loops.

        Args:
            timeout: Seconds that a round of any loop may take. It has to exceed the timeouts of all
                statements of a round together.
            clock: A monotonic clock.
        """
        self._timeout = timeout
        self._clock = clock
        self._beating: set[Heartbeat] = set()
        self._failures: Counter[Loop] = Counter()

    @contextmanager
    def watching(self, loop: Loop) -> Iterator[Heartbeat]:
        """Watch a heartbeat during the body, even if the loop has died."""
        heartbeat = Heartbeat(loop, self._timeout, self._clock)
        self._beating.add(heartbeat)
        try:
            yield heartbeat
        finally:
            self.dismiss(heartbeat)

    def dismiss(self, heartbeat: Heartbeat) -> None:
        """Stop watching a loop that ended on request."""
        self._beating.discard(heartbeat)

    def count_failure(self, loop: Loop) -> None:
        """Count a round that raised."""
        self._failures[loop] += 1

    @property
    def failures(self) -> Mapping[Loop, int]:
        """Number of rounds of each loop that raised; 0 for a loop that is missing."""
        return self._failures

    def stalled_loops(self) -> list[Loop]:
        """Return the loops whose next beat is overdue, in the order of their names."""
        return sorted({one.loop for one in self._beating if one.is_stalled})

    def ages(self) -> dict[Loop, float]:
        """Return the seconds since each loop's last beat; the longest if several share a name."""
        ages: dict[Loop, float] = {}
        for one in self._beating:
            ages[one.loop] = max(one.age, ages.get(one.loop, 0.0))
        return ages
