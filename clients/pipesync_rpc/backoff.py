"""Delays between failed attempts."""

import random

# 2**60 times any delay is longer than every bound; a float overflows at 2**1024.
_MAX_DOUBLINGS = 60


def backoff_delay(attempt: int, *, first: float, longest: float, jitter: float) -> float:
    """Return the seconds to wait after a failed attempt.

    Args:
        attempt: Number of failed attempts, from 1.
        first: The bound of the first delay in seconds; it doubles with each further attempt.
        longest: The bound of every delay in seconds.
        jitter: The share of the bound that is random, from 0 to 1: callers that failed together
            retry at different times.
    """
    bound = min(longest, first * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    return bound * random.uniform(1 - jitter, 1)  # noqa: S311 - spreads load, guards nothing
