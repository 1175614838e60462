"""Text that protobuf and Postgres can store."""

import re

REPLACEMENT = "\ufffd"

# Postgres cannot store NUL (https://www.postgresql.org/docs/current/datatype-character.html), and
# UTF-8 cannot encode a lone surrogate.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with each NUL and each lone surrogate replaced by U+FFFD."""
    return _UNSTORABLE.sub(REPLACEMENT, text)


def is_storable(text: str) -> bool:
    """Return whether the text contains neither NUL nor a lone surrogate."""
    return _UNSTORABLE.search(text) is None
