"""Rate limits as Stripe has them: one for the account, one for each endpoint.

Rules: https://docs.stripe.com/rate-limits
"""

import time
from dataclasses import dataclass

from tests.stripe_simulator import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """How many requests a second are let through; a burst of one second's worth is.

    Attributes:
        per_second: Of the whole account; None for no limit.
        per_endpoint: Of each endpoint; None for no limit.
        retry_after: Seconds that a 429 names in ``Retry-After``; None leaves the header out.
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
    """Lets requests through as the limits allow."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._account = _TokenBucket(limits.per_second) if limits.per_second else None
        self._endpoints: dict[str, _TokenBucket] = {}

    def admit(self, path: str) -> None:
        """Takes one token for a request to ``path``.

        Raises:
            Refusal: 429 with the limit that was hit.
        """
        if self._account and not self._account.take():
            raise errors.rate_limited("global-rate", self._limits.retry_after)
        if self._limits.per_endpoint:
            bucket = self._endpoints.setdefault(path, _TokenBucket(self._limits.per_endpoint))
            if not bucket.take():
                raise errors.rate_limited("endpoint-rate", self._limits.retry_after)
