"""Time that a server reserves before the deadline of a call, to answer in time."""

_FRACTION = 0.25


def deadline_margin(seconds: float, *, least: float, most: float) -> float:
    """Return the seconds to reserve of those until a deadline: a quarter, within bounds.

    Args:
        seconds: Time until the deadline.
        least: The least margin in seconds; at most half of ``seconds`` is reserved for it.
        most: The largest margin in seconds.
    """
    return max(min(least, seconds / 2), min(most, seconds * _FRACTION))
