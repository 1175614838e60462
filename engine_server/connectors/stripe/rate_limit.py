"""The two levels of Stripe's rate limits: one for the account, one for each endpoint.

Rules: https://docs.stripe.com/rate-limits
"""

import math
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine_server.connectors.stripe.token_bucket import TokenBucket

# Stripe allows 100 requests a second in live mode, 25 in a sandbox, and 25 per endpoint. A fifth is
# left to whoever else uses the account.
_LIVE_RATE = 80.0
_TEST_RATE = 20.0
_ENDPOINT_RATE = 20.0
# Files have a limit of their own: 20 reads a second.
_ENDPOINT_RATES = {"/v1/files": 16.0}

# With a burst of a quarter of a second the rates above come to just what Stripe allows.
_BURST_SECONDS = 0.25
# A rate that was asked for is a promise. This much only makes up for late wake-ups.
_PROMISED_BURST_SECONDS = 0.1

# Several times the number of Stripe's lists. With more endpoints than this, those at rest go.
_MANY_ENDPOINTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast one API key may be used, in requests a second; infinite where nothing limits it.

    Attributes:
        key: For all requests together.
        burst_seconds: How many seconds' worth of ``key`` may be used at once after a rest.
        endpoint: For those to one endpoint.
        exceptions: The same for endpoints that have a limit of their own.
    """

    key: float
    burst_seconds: float
    endpoint: float
    exceptions: dict[str, float]


def rates_for(*, base_url: str, api_key: str, rate_limit: float | None) -> Rates:
    """The rates to keep.

    Args:
        base_url: An address other than Stripe's has no published limits: none are kept there but
            ``rate_limit``, and that for the key only.
        api_key: Tells live mode from test mode.
        rate_limit: Requests a second with the key, instead of the default.
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
    """Lets requests through as the rates allow.

    Who asks for the same endpoint is served in the order of asking. Endpoints take turns, so that
    neither a long list nor an idle one holds the others up.
    """

    def __init__(self, rates: Rates) -> None:
        """``set_rates`` may change them later."""
        self._rates = rates
        self._key = TokenBucket(rates.key, burst_seconds=rates.burst_seconds)
        self._endpoints: dict[str, TokenBucket] = {}

    @property
    def key_rate(self) -> float:
        """Requests a second with the key at this moment."""
        return self._key.rate

    @property
    def is_rested(self) -> bool:
        """Whether a new limiter in its place would let nobody through sooner."""
        return self._key.is_rested and all(e.is_rested for e in self._endpoints.values())

    def set_rates(self, rates: Rates) -> None:
        """Changes how many requests a second the key may make; the endpoints' rates stay."""
        self._key.set_full_rate(rates.key, burst_seconds=rates.burst_seconds)

    def endpoint_rate(self, endpoint: str) -> float:
        """Requests a second to ``endpoint`` at this moment."""
        return self._endpoint(endpoint).rate

    async def acquire(self, endpoint: str) -> None:
        """Waits until a request to ``endpoint`` may be sent; a cancelled wait costs nothing."""
        bucket = self._endpoint(endpoint)
        if math.isinf(bucket.rate) and math.isinf(self._key.rate):
            return
        # Nothing is taken before both have a token: what waited for one of them with the other's
        # in hand would be sent too fast once it may go.
        async with bucket.turn(), self._key.turn():
            bucket.take()
            self._key.take()

    def slow_down(self, endpoint: str, reason: str, sent_at: float) -> None:
        """Slows down what a 429 complains about.

        Args:
            endpoint: What was asked.
            reason: The header ``Stripe-Rate-Limited-Reason``: ``global-rate``,
                ``global-concurrency``, ``endpoint-rate``, ``endpoint-concurrency`` or
                ``resource-specific``; empty when there was none.
            sent_at: When the refused request was sent, by ``time.monotonic``.
        """
        if reason.startswith(("endpoint", "resource")):
            self._endpoint(endpoint).slow_down(sent_at)
        else:
            self._key.slow_down(sent_at)

    def _endpoint(self, endpoint: str) -> TokenBucket:
        bucket = self._endpoints.get(endpoint)
        if bucket is None:
            # So it cannot grow beyond what was asked for in the last moments, whoever asks.
            if len(self._endpoints) >= _MANY_ENDPOINTS:
                self._endpoints = {n: b for n, b in self._endpoints.items() if not b.is_rested}
            rate = self._rates.exceptions.get(endpoint, self._rates.endpoint)
            bucket = TokenBucket(rate, burst_seconds=_BURST_SECONDS)
            self._endpoints[endpoint] = bucket
        return bucket
