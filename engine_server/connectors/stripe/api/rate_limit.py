"""Rate limiter with Stripe's two levels: one for the account, one for each endpoint.

Rules: https://docs.stripe.com/rate-limits
"""

import math
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine_server.connectors.stripe.api.token_bucket import TokenBucket

# Stripe allows 100 requests a second in live mode, 25 in a sandbox, and 25 per endpoint. A fifth is
# left to other users of the account.
_LIVE_RATE = 80.0
_TEST_RATE = 20.0
_ENDPOINT_RATE = 20.0
# Files have a separate limit: 20 reads a second.
_ENDPOINT_RATES = {"/v1/files": 16.0}

# With a burst of a quarter of a second the rates above add up to exactly Stripe's limits.
_BURST_SECONDS = 0.25
# A configured rate is a promise. This small burst only makes up for late wake-ups.
_PROMISED_BURST_SECONDS = 0.1

# Several times the number of Stripe's lists. With more endpoints, replenished ones are dropped.
_MANY_ENDPOINTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of one API key in requests a second; infinite without a limit.

    Attributes:
        key: The rate of all requests together.
        burst_seconds: The burst after a rest, in seconds' worth of ``key``.
        endpoint: The rate of requests to one endpoint.
        exceptions: The rates of endpoints with a separate limit.
    """

    key: float
    burst_seconds: float
    endpoint: float
    exceptions: dict[str, float]


def rates_for(*, base_url: str, api_key: str, rate_limit: float | None) -> Rates:
    """Return the rates to keep.

    Args:
        base_url: The address of the API. Any other than Stripe's has no published limits: only
            ``rate_limit`` applies there, for the key as a whole.
        api_key: Tells live mode from test mode.
        rate_limit: Requests a second with the key, in place of the default.
    """
    host = urlsplit(base_url).hostname or ""
    is_stripe = host == "stripe.com" or host.endswith(".stripe.com")
    is_live = api_key.startswith(("sk_live", "rk_live"))
    published = (_LIVE_RATE if is_live else _TEST_RATE) if is_stripe else math.inf
    return Rates(
        key=rate_limit or published,
        burst_seconds=_PROMISED_BURST_SECONDS if rate_limit else _BURST_SECONDS,
        endpoint=_ENDPOINT_RATE if is_stripe else math.inf,
        exceptions=_ENDPOINT_RATES if is_stripe else {},
    )


class RateLimiter:
    """Lets requests through at the given rates.

    Callers for the same endpoint are served first come, first served. Endpoints take turns, so that
    neither a long list nor an idle one delays the others.
    """

    def __init__(self, rates: Rates) -> None:
        """Start with these rates, which ``set_rates`` may change."""
        self._rates = rates
        self._key = TokenBucket(rates.key, burst_seconds=rates.burst_seconds)
        self._endpoints: dict[str, TokenBucket] = {}

    @property
    def key_rate(self) -> float:
        """The current rate of the key, in requests a second."""
        return self._key.rate

    @property
    def is_replenished(self) -> bool:
        """Whether a new limiter in its place would let no request through sooner."""
        return self._key.is_replenished and all(e.is_replenished for e in self._endpoints.values())

    def set_rates(self, rates: Rates) -> None:
        """Change the rate of the key; the rates of the endpoints stay."""
        self._key.set_full_rate(rates.key, burst_seconds=rates.burst_seconds)

    def endpoint_rate(self, endpoint: str) -> float:
        """Return the current rate of ``endpoint``, in requests a second."""
        return self._endpoint(endpoint).rate

    async def acquire(self, endpoint: str) -> None:
        """Wait until a request to ``endpoint`` may be sent; a cancelled wait costs nothing."""
        bucket = self._endpoint(endpoint)
        if math.isinf(bucket.rate) and math.isinf(self._key.rate):
            return
        # No token is taken before both buckets have one. Otherwise a caller that waited for one
        # bucket with a token of the other would be let through too fast afterwards.
        async with bucket.turn(), self._key.turn():
            bucket.take()
            self._key.take()

    def slow_down(self, endpoint: str, reason: str, sent_at: float) -> None:
        """Slow down the bucket that a 429 is about.

        Args:
            endpoint: The endpoint of the request.
            reason: The header ``Stripe-Rate-Limited-Reason``: ``global-rate``,
                ``global-concurrency``, ``endpoint-rate``, ``endpoint-concurrency`` or
                ``resource-specific``; empty without one.
            sent_at: When the refused request was sent, by ``time.monotonic``.
        """
        if reason.startswith(("endpoint", "resource")):
            self._endpoint(endpoint).slow_down(sent_at)
        else:
            self._key.slow_down(sent_at)

    def _endpoint(self, endpoint: str) -> TokenBucket:
        bucket = self._endpoints.get(endpoint)
        if bucket is None:
            # Bounds the memory to the endpoints used in the last moments.
            if len(self._endpoints) >= _MANY_ENDPOINTS:
                self._endpoints = {n: b for n, b in self._endpoints.items() if not b.is_replenished}
            rate = self._rates.exceptions.get(endpoint, self._rates.endpoint)
            bucket = TokenBucket(rate, burst_seconds=_BURST_SECONDS)
            self._endpoints[endpoint] = bucket
        return bucket
