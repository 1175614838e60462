"""Token bucket that lets callers through at a rate, first come, first served."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# A slowed bucket regains this share of its full rate every second.
_RECOVERY_PER_SECOND = 0.05
# A request sent less than this many seconds after a slow-down may be part of the same excess.
_SLOW_DOWN_INTERVAL = 1.0


class TokenBucket:
    """Halves its rate when told to slow down, and regains it gradually.

    Between any two moments it lets through the product of its rate and the time, and one burst.
    Tokens accrue with elapsed time, so an event loop that wakes up late catches up if it is late by
    less than a burst.
    """

    def __init__(self, rate: float, *, burst_seconds: float) -> None:
        """Start with one token, regardless of the burst.

        Args:
            rate: Tokens a second; infinite lets every caller through.
            burst_seconds: How many seconds' worth of unused tokens are kept; at least one token.
        """
        self._full_rate = rate
        self._rate = rate
        self._burst_seconds = burst_seconds
        self._tokens = 1.0
        self._filled_at = time.monotonic()
        self._slowed_at = -math.inf
        self._queue: deque[asyncio.Event] = deque()

    @property
    def rate(self) -> float:
        """The current rate, in tokens a second."""
        return self._rate_after(time.monotonic() - self._filled_at)

    @property
    def is_replenished(self) -> bool:
        """Whether a new bucket in its place would let no caller through sooner."""
        self._fill()
        return not self._queue and self._rate == self._full_rate and self._tokens >= 1

    def set_full_rate(self, rate: float, *, burst_seconds: float) -> None:
        """Change the full rate; a slowed bucket stays slow and recovers towards it."""
        self._fill()
        is_slowed = self._rate < self._full_rate and not math.isinf(rate)
        self._rate = min(self._rate, rate) if is_slowed else rate
        self._full_rate = rate
        self._burst_seconds = burst_seconds

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Enter once the caller is first in line and a token is available for it to take."""
        place = asyncio.Event()
        self._queue.append(place)
        try:
            if self._queue[0] is not place:
                await place.wait()
            # A slow-down meanwhile leaves the bucket in debt, which the next caller waits out.
            await asyncio.sleep(self._seconds_to_token())
            yield
        finally:
            was_first = self._queue[0] is place
            self._queue.remove(place)
            if was_first and self._queue:
                self._queue[0].set()

    def take(self) -> None:
        """Take the token of the caller whose turn it is."""
        self._tokens -= 1

    def slow_down(self, sent_at: float) -> None:
        """Halve the rate because of a rejected request, sent at ``time.monotonic``.

        Several requests in flight together show one and the same excess.
        """
        if sent_at < self._slowed_at + _SLOW_DOWN_INTERVAL:
            return
        self._fill()
        self._slowed_at = self._filled_at
        self._rate = max(self._rate / 2, min(1.0, self._full_rate))
        self._tokens = min(self._tokens, 0.0)

    def _seconds_to_token(self) -> float:
        if math.isinf(self._rate):
            return 0.0
        self._fill()
        return max(0.0, (1 - self._tokens) / self._rate)

    def _fill(self) -> None:
        now = time.monotonic()
        elapsed = now - self._filled_at
        self._filled_at = now
        if math.isinf(self._rate):
            self._tokens = 1.0
            return
        capacity = max(1.0, self._rate * self._burst_seconds)
        self._tokens = min(capacity, self._tokens + elapsed * self._rate)
        self._rate = self._rate_after(elapsed)

    def _rate_after(self, seconds: float) -> float:
        if self._rate == self._full_rate:
            return self._rate
        recovered = seconds * self._full_rate * _RECOVERY_PER_SECOND
        return min(self._full_rate, self._rate + recovered)
