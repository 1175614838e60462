"""Numbers on the command line."""

import math
from collections.abc import Callable

import typer


def whole_number(least: int) -> Callable[[str], int]:
    """A parser of whole numbers that are not below ``least``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a whole number.") from None
        if number < least:
            raise typer.BadParameter(f"{number} is too small; the least is {least}.")
        return number

    return parse


def seconds(text: str) -> float:
    """A time in seconds, above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a number of seconds.")
    if number <= 0:
        raise typer.BadParameter(f"{text} is not above zero.")
    return number
