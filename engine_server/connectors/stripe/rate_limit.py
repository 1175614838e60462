"""Token buckets, per API key and per endpoint, that every pipeline of the process shares."""

import asyncio
import hashlib
import math
import time
from collections import deque
from urllib.parse import urlsplit

# Stripe allows 100 operations a second in live mode, 25 in a sandbox, and 25 per endpoint
# (https://docs.stripe.com/rate-limits). A fifth is left to whoever else uses the account.
_LIVE_RATE = 80.0
_TEST_RATE = 20.0
_ENDPOINT_RATE = 20.0

# A bucket holds this many seconds' worth, enough to make up for a late wake-up.
_BURST_SECONDS = 0.05
# A slowed bucket wins back this share of its full rate every second.
_RECOVERY_PER_SECOND = 0.05
# Answers to requests that were sent side by side tell of one and the same excess.
_SLOW_DOWN_INTERVAL = 1.0


class TokenBucket:
    """Lets callers through at a rate, first come first served.

    It halves its rate when it is told to slow down and wins it back little by little.
    """

    def __init__(self, rate: float) -> None:
        """``rate`` is in tokens a second; infinite lets everyone through."""
        self._full_rate = rate
        self._rate = rate
        self._tokens = 1.0
        self._filled_at = time.monotonic()
        self._slowed_at = -math.inf
        self._queue: deque[asyncio.Event] = deque()

    @property
    def rate(self) -> float:
        """Tokens a second at this moment."""
        self._fill()
        return self._rate

    def set_full_rate(self, rate: float) -> None:
        """Changes the rate for good; a slowed bucket recovers towards it."""
        if rate != self._full_rate:
            self._full_rate = self._rate = rate

    async def acquire(self) -> None:
        """Waits for its turn and takes one token; a cancelled wait takes none."""
        turn = asyncio.Event()
        self._queue.append(turn)
        try:
            if self._queue[0] is not turn:
                await turn.wait()
            # What slows the bucket down meanwhile leaves it in debt, for the next one to wait out.
            await asyncio.sleep(self._seconds_to_token())
            self._tokens -= 1
        finally:
            was_first = self._queue[0] is turn
            self._queue.remove(turn)
            if was_first and self._queue:
                self._queue[0].set()

    def slow_down(self) -> None:
        """Halves the rate, at most once for all answers of about the same moment."""
        self._fill()
        if self._filled_at - self._slowed_at < _SLOW_DOWN_INTERVAL:
            return
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
            return
        capacity = max(2.0, self._rate * _BURST_SECONDS)
        self._tokens = min(capacity, self._tokens + elapsed * self._rate)
        recovered = elapsed * self._full_rate * _RECOVERY_PER_SECOND
        self._rate = min(self._full_rate, self._rate + recovered)


class RateLimiter:
    """The two levels of Stripe's limits: one bucket for the key, one for each endpoint."""

    def __init__(self, *, key_rate: float, endpoint_rate: float) -> None:
        self._key = TokenBucket(key_rate)
        self._endpoint_rate = endpoint_rate
        self._endpoints: dict[str, TokenBucket] = {}

    @property
    def key_rate(self) -> float:
        """Requests a second with the key at this moment."""
        return self._key.rate

    def set_key_rate(self, rate: float) -> None:
        """Changes how many requests a second the key may make."""
        self._key.set_full_rate(rate)

    def endpoint_rate(self, endpoint: str) -> float:
        """Requests a second to ``endpoint`` at this moment."""
        return self._endpoint(endpoint).rate

    async def acquire(self, endpoint: str) -> None:
        """Waits until a request to ``endpoint`` may be sent."""
        # The key's bucket last: whoever waits for an endpoint holds nothing up for the others.
        await self._endpoint(endpoint).acquire()
        await self._key.acquire()

    def slow_down(self, endpoint: str, reason: str) -> None:
        """Slows down what a 429 complains about.

        Args:
            endpoint: What was asked.
            reason: The header ``Stripe-Rate-Limited-Reason``: ``global-rate``, ``endpoint-rate``,
                ``resource-specific``, ...; empty when there was none.
        """
        if reason.startswith(("endpoint", "resource")):
            self._endpoint(endpoint).slow_down()
        else:
            self._key.slow_down()

    def _endpoint(self, endpoint: str) -> TokenBucket:
        return self._endpoints.setdefault(endpoint, TokenBucket(self._endpoint_rate))


_LIMITERS: dict[str, RateLimiter] = {}


def limiter_for(*, base_url: str, api_key: str, rate_limit: float | None) -> RateLimiter:
    """The process's one limiter for this key at this address.

    Args:
        base_url: An address other than Stripe's has no published limit: none is kept there but
            ``rate_limit``, and that for the key only.
        api_key: Only a hash of it is kept.
        rate_limit: Requests a second with the key, instead of the default; the last caller's wins.
    """
    is_stripe = (urlsplit(base_url).hostname or "").endswith("stripe.com")
    published = _LIVE_RATE if api_key.startswith(("sk_live", "rk_live")) else _TEST_RATE
    key_rate = rate_limit or (published if is_stripe else math.inf)
    name = hashlib.sha256(f"{base_url}\0{api_key}".encode()).hexdigest()
    limiter = _LIMITERS.get(name)
    if limiter is None:
        limiter = _LIMITERS[name] = RateLimiter(
            key_rate=key_rate, endpoint_rate=_ENDPOINT_RATE if is_stripe else math.inf
        )
    limiter.set_key_rate(key_rate)
    return limiter
