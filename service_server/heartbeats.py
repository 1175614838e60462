"""Heartbeats of the process's background loops: which of them stand still."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum


class Loop(StrEnum):
    """Every background loop of the service; metrics use the values as labels."""

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
    WATCHDOG = "watchdog"


class Heartbeat:
    """The heartbeat of one running loop."""

    def __init__(self, loop: Loop, patience: float, clock: Callable[[], float]) -> None:
        """Start with a beat.

        Args:
            loop: The loop's name; several loops may share it.
            patience: Seconds that a round may take before the loop counts as standing still.
            clock: A monotonic clock.
        """
        self.loop = loop
        self._patience = patience
        self._clock = clock
        self.beat()

    def beat(self, wait: float = 0.0) -> None:
        """Report that the loop came round.

        Args:
            wait: Seconds that the loop means to wait before its next beat.
        """
        self._last = self._clock()
        self._limit = self._last + wait + self._patience

    @property
    def age(self) -> float:
        """Seconds since the last beat."""
        return self._clock() - self._last

    @property
    def stands_still(self) -> bool:
        """Whether the next beat is overdue."""
        return self._clock() > self._limit


class Heartbeats:
    """The heartbeats of all loops that run in this process."""

    def __init__(
        self, *, patience: float = 120.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the settings.

        Args:
            patience: Seconds that a round of any loop may take. A round's statements have timeouts
                of their own, which together have to stay below.
            clock: A monotonic clock.
        """
        self._patience = patience
        self._clock = clock
        self._beating: set[Heartbeat] = set()
        self._failures: Counter[Loop] = Counter()

    @contextmanager
    def watching(self, loop: Loop) -> Iterator[Heartbeat]:
        """Watch a heartbeat for the length of the body, whether or not the loop is alive."""
        heartbeat = Heartbeat(loop, self._patience, self._clock)
        self._beating.add(heartbeat)
        try:
            yield heartbeat
        finally:
            self.dismiss(heartbeat)

    def dismiss(self, heartbeat: Heartbeat) -> None:
        """Stop watching a loop that ended because it was asked to."""
        self._beating.discard(heartbeat)

    def count_failure(self, loop: Loop) -> None:
        """Count a round that raised."""
        self._failures[loop] += 1

    @property
    def failures(self) -> Mapping[Loop, int]:
        """The number of rounds of each loop that raised; 0 for those that are missing."""
        return self._failures

    def standing_still(self) -> list[Loop]:
        """Return the loops whose next beat is overdue, in the order of their names."""
        return sorted({one.loop for one in self._beating if one.stands_still})

    def ages(self) -> dict[Loop, float]:
        """Return the seconds since the last beat of each loop; the longest where several run."""
        ages: dict[Loop, float] = {}
        for one in self._beating:
            ages[one.loop] = max(one.age, ages.get(one.loop, 0.0))
        return ages
