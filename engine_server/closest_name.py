"""Closest known name to an unknown one, for error messages."""

import difflib
from collections.abc import Iterable

# Longer texts are not misspelled names, and comparing them takes quadratic time.
_MAX_CHARACTERS = 100


def did_you_mean(wrong: str, known: Iterable[str], *, otherwise: str) -> str:
    """Return ``did you mean NAME?`` with the closest known name; ``otherwise`` if none is close."""
    if len(wrong) > _MAX_CHARACTERS:
        return otherwise
    nearest = difflib.get_close_matches(wrong, list(known), n=1)
    return f"did you mean {nearest[0]}?" if nearest else otherwise


class NameHints:
    """Hints for the first few unknown names of a request, since each takes time to compute."""

    def __init__(self, most: int = 5) -> None:
        self._left = most

    def did_you_mean(self, wrong: str, known: Iterable[str], *, otherwise: str) -> str:
        """Return the same as the function, or ``otherwise`` once the hints are used up."""
        if self._left <= 0:
            return otherwise
        self._left -= 1
        return did_you_mean(wrong, known, otherwise=otherwise)
