"""What somebody probably meant who wrote a name that there is not."""

import difflib
from collections.abc import Iterable


def did_you_mean(wrong: str, known: Iterable[str], *, otherwise: str) -> str:
    """``did you mean NAME?`` with the nearest of ``known``, or ``otherwise`` when none is near."""
    nearest = difflib.get_close_matches(wrong, list(known), n=1)
    return f"did you mean {nearest[0]}?" if nearest else otherwise
