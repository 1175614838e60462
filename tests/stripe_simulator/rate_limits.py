"""Rate limits like Stripe's: one for the account, one for each endpoint.

Rules: https://docs.stripe.com/rate-limits
"""

import time
from dataclasses import dataclass

from tests.stripe_simulator import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Requests a second to admit, with bursts of up to one second's worth.

    Attributes:
        per_second: Limit of the whole account; None for no limit.
        per_endpoint: Limit of each endpoint; None for no limit.
        retry_after: Seconds in the ``Retry-After`` header of a 429; None omits the header.
    """

    per_second: float | None = None
    per_endpoint: float | None = None
    retry_after: float | None = None


class _TokenBucket:
    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._filled_at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        filled = self._tokens + (now - self._filled_at) * self._per_second
        self._tokens, self._filled_at = min(self._capacity, filled), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Throttle:
    """Admission of requests within the limits."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._account = _TokenBucket(limits.per_second) if limits.per_second else None
        self._endpoints: dict[str, _TokenBucket] = {}

    def admit(self, path: str) -> None:
        """Take one token for a request to ``path``.

        Raises:
            Refusal: 429 with the limit that was hit.
        """
        if self._account and not self._account.take():
            raise errors.rate_limited("global-rate", self._limits.retry_after)
        if self._limits.per_endpoint:
            bucket = self._endpoints.setdefault(path, _TokenBucket(self._limits.per_endpoint))
            if not bucket.take():
                raise errors.rate_limited("endpoint-rate", self._limits.retry_after)
