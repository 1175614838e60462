"""Measure of how the time of a function grows with the text that it reads."""

import time
from collections.abc import Callable

_TIMES_LONGER = 8
# A quadratic function takes 64 times as long for a text that is eight times longer.
_MOST_TIMES = 24.0
# Other work of the machine makes a measurement longer now and then; quadratic time always is.
_ATTEMPTS = 5
# Seconds: less is the time of a call, whatever the text.
_LEAST = 0.0005


def assert_linear(function: Callable[[str], object], part: str, *, characters: int = 8_000) -> None:
    """Fail if the function takes more than linear time for repetitions of a text.

    Args:
        function: The function.
        part: The text to repeat, such as one that a pattern nearly matches.
        characters: Length of the longer text.
    """
    long = (part * characters)[:characters]
    short = long[: characters // _TIMES_LONGER]
    ratios = []
    for _ in range(_ATTEMPTS):
        ratios.append(_seconds(function, long) / max(_seconds(function, short), _LEAST))
        if ratios[-1] < _MOST_TIMES:
            return
    raise AssertionError(f"{_TIMES_LONGER} times of {part!r} took {ratios} times as long")


def _seconds(function: Callable[[str], object], text: str) -> float:
    before = time.thread_time()
    function(text)
    return time.thread_time() - before
