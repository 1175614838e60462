r"""JSON escapes that jsonb refuses: NUL, and one half of a surrogate pair.

https://www.postgresql.org/docs/current/datatype-json.html: ``\u0000`` is refused, and Unicode
surrogate pairs have to be correct.
"""

import re
from collections.abc import Sequence

from engine_server.text import REPLACEMENT

# Candidates: also matches a whole pair, and text that follows an escaped backslash.
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# Matches whole escapes, so that none begins within another: a pair, one to replace, or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))"
    rb"|.)",
    re.DOTALL,
)
_REPLACEMENT = REPLACEMENT.encode()


def find_unstorable(records: Sequence[bytes]) -> list[int]:
    """Return the indexes of the records with such an escape.

    One search over all records decides whether they are searched one by one.

    Args:
        records: JSON in UTF-8.
    """
    together = b"".join(records)
    if b"\\" not in together or _SUSPECT.search(together) is None:
        return []
    return [
        index
        for index, record in enumerate(records)
        if _SUSPECT.search(record) and any(found[1] for found in _ESCAPE.finditer(record))
    ]


def replace_unstorable(record: bytes) -> bytes:
    """Return the record with U+FFFD in place of each such escape, and otherwise unchanged."""
    return _ESCAPE.sub(lambda found: _REPLACEMENT if found[1] else found[0], record)
