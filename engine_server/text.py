"""Texts that protobuf and Postgres can hold."""

import re

REPLACEMENT = "\ufffd"

# Postgres holds no NUL (https://www.postgresql.org/docs/current/datatype-character.html), and UTF-8
# no half of a surrogate pair.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> str:
    """Return the text with U+FFFD in place of each NUL and each lone surrogate."""
    return _UNSTORABLE.sub(REPLACEMENT, text)


def is_storable(text: str) -> bool:
    """Whether the text has neither a NUL nor a lone surrogate."""
    return _UNSTORABLE.search(text) is None
