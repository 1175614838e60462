"""Policy of retries: which requests, how often, and when."""

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from engine_server.connectors.stripe.api.clock import unix_time
from pipesync_rpc.backoff import backoff_delay

# Spreads clients with the same ``Retry-After`` over this share of the wait.
_RETRY_AFTER_SPREAD = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Limits of retries; times in seconds.

    Attributes:
        attempts: The most attempts at one request.
        rate_limited_attempts: The most attempts while the last response was an exceeded rate limit.
            Such a request is valid and only has to wait for others.
        connect_attempts: The most attempts while the server was never reached: then the address is
            probably wrong.
        first_delay: The upper bound of the first delay; it doubles with each further delay.
        longest_delay: The upper bound of any delay.
        longest_retry_after: The longest wait for ``Retry-After``. Beyond it, the next attempt is
            sooner than requested.
        timeout: Timeout of one attempt, including the body.
        connect_timeout: Timeout of connecting, as part of that.
    """

    attempts: int = 8
    rate_limited_attempts: int = 25
    connect_attempts: int = 3
    first_delay: float = 0.5
    longest_delay: float = 30.0
    longest_retry_after: float = 60.0
    timeout: float = 30.0
    connect_timeout: float = 10.0

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Return the seconds to wait after the failed ``attempt`` (from 1).

        With ``retry_after`` it is that and a little more, otherwise a random delay up to the
        doubling bound ("full jitter"). Either way, clients that failed together do not come back
        together.
        """
        if retry_after is not None:
            asked = min(retry_after, self.longest_retry_after)
            spread = random.uniform(0, _RETRY_AFTER_SPREAD)  # noqa: S311 - spreads load
            return asked * (1 + spread)
        return backoff_delay(attempt, first=self.first_delay, longest=self.longest_delay, jitter=1)


def is_retriable(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether the same request may succeed later.

    ``Stripe-Should-Retry`` decides if present (https://docs.stripe.com/error-low-level). A 409 to a
    read is a lock that another request holds.
    """
    match headers.get("Stripe-Should-Retry"):
        case "true":
            return True
        case "false":
            return False
        case _:
            return status in (409, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for; None if it is absent or invalid.

    It is a number of seconds or a date (https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3). The
    date is compared with the server's own ``Date``, so that clocks need not agree.
    """
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        moment = unix_time(value)
        if moment is None:
            return None
        now = unix_time(headers.get("Date", ""))
        return max(0.0, moment - (time.time() if now is None else now))
    return seconds if 0 <= seconds < math.inf else None
