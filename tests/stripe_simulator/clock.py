"""Clock of a simulated account: the machine's time, an offset from it, or a time set by a test."""

import time
from collections.abc import Callable


class Clock:
    """Real time until it is set; then it stands still until it is moved or released.

    Attributes:
        skew: Seconds by which the account's clock is ahead of the machine's. The ``Date`` header of
            answers follows it, too.
    """

    def __init__(self) -> None:
        self.skew = 0.0
        self._now: Callable[[], float] = time.time
        self._stopped_at: float | None = None

    def time(self) -> float:
        """Return Unix seconds."""
        return self._now() + self.skew if self._stopped_at is None else self._stopped_at

    def second(self) -> int:
        """Return whole Unix seconds, the resolution of Stripe's objects."""
        return int(self.time())

    def date(self) -> float:
        """Return Unix seconds for the ``Date`` header, which never stands still."""
        return self._now() + self.skew

    def set(self, seconds: float) -> None:
        """Stop the clock at a time in Unix seconds, so that many changes share one second."""
        self._stopped_at = seconds

    def advance(self, seconds: float) -> None:
        """Stop the clock this many seconds later than its present time."""
        self._stopped_at = self.time() + seconds

    def release(self) -> None:
        """Return to real time."""
        self._stopped_at = None

    def follow(self, now: Callable[[], float]) -> None:
        """Follow another clock than the machine's, e.g. that of a virtual event loop."""
        self._now = now
