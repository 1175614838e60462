"""JSON in and out, as fast as orjson where that is exact, and exact everywhere."""

import json
from typing import Any

import orjson

_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# The shortest number that may not fit into 64 bits.
_LONG_NUMBER = b"0" * 19


def decode(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is not JSON, cut off perhaps.
    """
    # orjson turns an integer beyond 64 bits into a float without a word. The standard library does
    # not, and is slow.
    if _LONG_NUMBER in text.translate(_DIGITS_TO_ZERO):
        return json.loads(text)
    return orjson.loads(text)


def encode(value: Any) -> bytes:
    """The JSON text of a value, as UTF-8 without white space."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # An integer beyond 64 bits.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
