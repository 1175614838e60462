"""Rate limit on refused deliveries, per address."""

import time
from collections import OrderedDict
from collections.abc import Callable

# Addresses that are kept: those with the latest refusals.
_MOST_ADDRESSES = 10_000
# Size of a bucket, in seconds of its rate.
_BURST_SECONDS = 10.0


class Refusals:
    """Leaky buckets of refusals, one for each address."""

    def __init__(self, rate: float = 20.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the sustained rate of refusals per second that each address may have."""
        self._rate = rate
        self._most = max(1.0, rate * _BURST_SECONDS)
        self._clock = clock
        # The level of each bucket, and the time at which it had that level.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def are_too_many(self, address: str) -> bool:
        """Return whether the address has used up its refusals."""
        return self._level(address, self._clock()) + 1 > self._most

    def note(self, address: str) -> None:
        """Record that a delivery of the address was refused."""
        now = self._clock()
        # The level is capped, so that an address is admitted again soon after it stops.
        level = min(self._level(address, now) + 1, self._most)
        self._levels[address] = (level, now)
        self._levels.move_to_end(address)
        if len(self._levels) > _MOST_ADDRESSES:
            self._levels.popitem(last=False)

    def _level(self, address: str, now: float) -> float:
        level, at = self._levels.get(address, (0.0, now))
        return max(0.0, level - (now - at) * self._rate)
