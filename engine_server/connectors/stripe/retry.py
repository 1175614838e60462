"""Which requests are tried again, and when."""

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from engine_server.connectors.stripe.clock import unix_time

# A server that asks for more patience than this gets the next attempt sooner than it asked for.
_LONGEST_RETRY_AFTER = 60.0
# Whoever was told to come back at the same moment comes back within this much more of the wait.
_RETRY_AFTER_SPREAD = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a client is; times in seconds.

    Attributes:
        attempts: The most attempts at one request.
        rate_limited_attempts: The same while the last answer was that the rate limit is exceeded.
            That says nothing against the request: it only has to wait until others are done.
        connect_attempts: The same as long as the server was never reached: then it is more likely
            the address that is wrong.
        first_delay: The upper bound of the first delay; each later one's is twice the one before.
        longest_delay: The upper bound of any delay.
        timeout: How long one attempt may take, the body included.
        connect_timeout: How long connecting may take of that.
    """

    attempts: int = 8
    rate_limited_attempts: int = 25
    connect_attempts: int = 3
    first_delay: float = 0.5
    longest_delay: float = 30.0
    timeout: float = 30.0
    connect_timeout: float = 10.0

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Seconds to wait after the failed ``attempt`` (from 1).

        It is what the server asked for and a little more, if it did. Otherwise anything between
        nothing and the doubling bound ("full jitter"). Either way, clients that failed together do
        not come back together.
        """
        if retry_after is not None:
            asked = min(retry_after, _LONGEST_RETRY_AFTER)
            return _between(asked, asked * (1 + _RETRY_AFTER_SPREAD))
        return _between(0, min(self.longest_delay, self.first_delay * 2 ** (attempt - 1)))


def is_retriable(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the same request may succeed later.

    ``Stripe-Should-Retry`` decides where present (https://docs.stripe.com/error-low-level). A 409
    to a read is a lock that another request holds.
    """
    match headers.get("Stripe-Should-Retry"):
        case "true":
            return True
        case "false":
            return False
        case _:
            return status in (409, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that ``Retry-After`` asks for; None when it is absent or makes no sense.

    It is a number of seconds or a moment (https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3).
    The moment is compared with the server's own ``Date``, so that clocks need not agree.
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


def _between(shortest: float, longest: float) -> float:
    return random.uniform(shortest, longest)  # noqa: S311 - spreads load, guards nothing
