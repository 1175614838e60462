r"""Escapes in JSON that jsonb refuses: of NUL, and of one half of a surrogate pair.

https://www.postgresql.org/docs/current/datatype-json.html: ``\u0000`` is refused, and Unicode
surrogate pairs have to be correct.
"""

import re
from collections.abc import Sequence

from engine_server.text import REPLACEMENT

# What may be one of them: a pair is, too, and what follows an escaped backslash.
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# Every escape as a whole, so that none begins amid another: a pair, one to replace, any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))"
    rb"|.)",
    re.DOTALL,
)
_REPLACEMENT = REPLACEMENT.encode()


def unstorable(records: Sequence[bytes]) -> list[int]:
    """Return the places of the records that hold such an escape.

    One look at all of them decides whether any is looked at by itself.

    Args:
        records: JSON in UTF-8.
    """
    together = b"".join(records)
    if b"\\" not in together or _SUSPECT.search(together) is None:
        return []
    return [
        place
        for place, record in enumerate(records)
        if _SUSPECT.search(record) and any(found[1] for found in _ESCAPE.finditer(record))
    ]


def replaced(record: bytes) -> bytes:
    """Return the record with U+FFFD in place of each of them; all else stays as it is."""
    return _ESCAPE.sub(lambda found: _REPLACEMENT if found[1] else found[0], record)
