"""The time of a simulated account: the machine's, one apart from it, or what a test says."""

import time
from collections.abc import Callable


class Clock:
    """Real time until it is set; then it stands still until it is moved or released.

    Attributes:
        skew: How many seconds the account's clock is ahead of the machine's. The header ``Date`` of
            answers goes by it, too.
    """

    def __init__(self) -> None:
        self.skew = 0.0
        self._now: Callable[[], float] = time.time
        self._stopped_at: float | None = None

    def time(self) -> float:
        """Unix seconds."""
        return self._now() + self.skew if self._stopped_at is None else self._stopped_at

    def second(self) -> int:
        """Whole Unix seconds, which is all that Stripe's objects tell."""
        return int(self.time())

    def date(self) -> float:
        """Unix seconds for the header ``Date``, which goes on while the clock stands still."""
        return self._now() + self.skew

    def set(self, seconds: float) -> None:
        """Stops it at that time in Unix seconds, so that many things happen in one second."""
        self._stopped_at = seconds

    def advance(self, seconds: float) -> None:
        """Stops it that much later than it is."""
        self._stopped_at = self.time() + seconds

    def release(self) -> None:
        """Lets it be real time again."""
        self._stopped_at = None

    def follow(self, now: Callable[[], float]) -> None:
        """Goes by another clock than the machine's, e.g. that of a virtual event loop."""
        self._now = now
