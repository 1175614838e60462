"""Rate limit for log events that anyone can cause in any number."""

import time
from collections.abc import Callable, Hashable
from typing import Any

# Seconds between two events of one kind.
_INTERVAL = 1.0
# Limit on the number of kinds, far above the number in use.
_MOST_KINDS = 1000


class FloodLog:
    """Logs one event of each kind a second, with the number of events that it stands for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # For each kind, the time of the latest logged event and the number of events since.
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def log(
        self, log: Callable[..., Any], event: str, kind: Hashable = "", /, **fields: Any
    ) -> None:
        """Log an event, unless one of its kind was logged within the last second.

        Args:
            log: The method of a logger.
            event: The name of the event.
            kind: Distinguishes kinds of events with the same name; one of a small set.
            fields: The fields of the event. ``count`` is added if it stands for several events.
        """
        key, now = (event, kind), self._clock()
        since, unlogged = self._kinds.get(key, (-_INTERVAL, 0))
        if now - since < _INTERVAL:
            self._kinds[key] = (since, unlogged + 1)
            return
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[key] = (now, 0)
        if unlogged:
            fields["count"] = unlogged + 1
        log(event, **fields)
