"""Which requests are tried again, and when."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

# A server that asks for more patience than this gets the next attempt sooner than it asked for.
_LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a client is; times in seconds.

    Attributes:
        attempts: The most attempts at one request.
        connect_attempts: The same as long as the server was never reached: then it is more likely
            the address that is wrong.
        first_delay: The upper bound of the first delay; each later one's is twice the one before.
        longest_delay: The upper bound of any delay.
        timeout: How long one attempt may take, the body included.
        connect_timeout: How long connecting may take of that.
    """

    attempts: int = 8
    connect_attempts: int = 3
    first_delay: float = 0.5
    longest_delay: float = 30.0
    timeout: float = 30.0
    connect_timeout: float = 10.0

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """Seconds to wait after the failed ``attempt`` (from 1).

        It is what the server asked for, if it did. Otherwise anything between nothing and the
        doubling bound ("full jitter"), so that clients that failed together do not come back
        together.
        """
        if retry_after is not None:
            return min(retry_after, _LONGEST_RETRY_AFTER)
        bound = min(self.longest_delay, self.first_delay * 2 ** (attempt - 1))
        return random.uniform(0, bound)  # noqa: S311 - spreads load, guards nothing


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
    """The seconds of ``Retry-After``; None when absent or not a number."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
