"""What time it is for a simulated account: the machine's, or what a test says."""

import time


class Clock:
    """Real time until it is set; then it stands still until it is moved or released."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None

    def time(self) -> float:
        """Unix seconds."""
        return time.time() if self._stopped_at is None else self._stopped_at

    def second(self) -> int:
        """Whole Unix seconds, which is all that Stripe's objects tell."""
        return int(self.time())

    def set(self, seconds: float) -> None:
        """Stops it at that time in Unix seconds, so that many things happen in one second."""
        self._stopped_at = seconds

    def advance(self, seconds: float) -> None:
        """Stops it that much later than it is."""
        self._stopped_at = self.time() + seconds

    def release(self) -> None:
        """Lets it be real time again."""
        self._stopped_at = None
