"""Lossless JSON codec: numbers keep their digits, and strings their lone surrogates.

RFC 8259 allows a string to escape half of a surrogate pair (section 8.2), and a number to have any
number of digits (section 6). Fast decoders refuse the former and round the latter.
"""

import json
import re
from json.encoder import encode_basestring
from types import NoneType
from typing import Any, NoReturn, Self, TypeVar

import msgspec
import orjson

from engine_server.gc_pause import LARGE, gc_paused
from pipesync_server.json_values import has_more_values

T = TypeVar("T")

# The most values that ``decode`` makes, which takes less than 0.1 seconds. An object of Stripe has
# up to 3,000.
MAX_VALUES = 100_000
# The most bytes of a text, for the same time, which is ten times a page of a hundred long objects.
_MAX_BYTES = 16 * 1024 * 1024
# The most bytes of a text with lone surrogates, -0 or long integers, for the same time.
MAX_CAREFUL_BYTES = 4 * 1024 * 1024

# Integers of up to this many digits fit into 64 bits.
_MAX_DIGITS = 18
# An int has no negative zero.
_NEGATIVE_ZERO = re.compile(rb"-0(?![0-9.eE])")
_LONG_INTEGER = re.compile(rb"[0-9]{19}")
# Size in bytes from which a text is searched for long integers first: the time to make ints of them
# grows with the square of their digits. Searching for zeros is much faster than the pattern.
_MOST_UNSEARCHED = 1024 * 1024
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_ZEROS = b"0" * (_MAX_DIGITS + 1)
# Bytes that are searched at once.
_BYTES_AT_ONCE = 1024 * 1024
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_WHOLE_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class TooLarge(ValueError):
    """A JSON text that would take too long to decode; the message says why."""


class ExactNumber(float):
    """Number that keeps the digits of its JSON text.

    Attributes:
        text: The number as written, e.g. ``1.10``; the float may be rounded.
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Self:
        """Parse the text, and keep it."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Return the number itself, which is immutable."""
        return self


_CONSTANTS = {True: "true", False: "false", None: "null"}
_TYPES = {b"{": dict, b"[": list, b'"': str, b"t": bool, b"f": bool, b"n": NoneType}
_DECODER = msgspec.json.Decoder(float_hook=ExactNumber)
_RAW = msgspec.json.Decoder(msgspec.Raw)


def decode(text: bytes, *, max_values: int = MAX_VALUES) -> Any:
    """Return the value of a JSON text in UTF-8.

    Numbers with a fraction or an exponent are ``ExactNumber``; a str may hold lone surrogates.

    Args:
        text: The text.
        max_values: The most values in it, at any depth.

    Raises:
        TooLarge: The text has more values, or takes too long for another reason.
        ValueError: The text is not JSON, for example because it is truncated, or not UTF-8.
    """
    if len(text) >= LARGE:
        if len(text) > _MAX_BYTES:
            raise TooLarge(f"it has more than {_MAX_BYTES // 1024**2} MiB")
        refuse_many_values(text, max_values)
        with gc_paused():
            return _decode_large(text)
    # Searching for two characters first is much faster than the pattern.
    if b"-0" in text and _NEGATIVE_ZERO.search(text):
        return _decode_carefully(text)
    return _decode(text)


def refuse_many_values(text: bytes, most: int) -> None:
    """Check the number of values of a JSON text, at any depth, without making any.

    Raises:
        TooLarge: The text has more than ``most`` values.
    """
    if has_more_values(text, most):
        raise TooLarge(f"it has more than {most:,} values")


def _decode_large(text: bytes) -> Any:
    if b"-0" in text and _has_match(_NEGATIVE_ZERO, text):
        return _decode_carefully(text)
    if len(text) > _MOST_UNSEARCHED and _LONG_ZEROS in text.translate(_AS_ZEROS):
        return _decode_carefully(text)
    return _decode(text)


def _decode(text: bytes) -> Any:
    try:
        return _DECODER.decode(text)
    except UnicodeDecodeError:
        raise
    except ValueError:
        # msgspec refuses lone surrogates and integers of thousands of digits.
        return _decode_carefully(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _has_match(pattern: re.Pattern[bytes], text: bytes) -> bool:
    """Return whether a pattern matches, searching a part at once so that other threads run."""
    for start in range(0, len(text), _BYTES_AT_ONCE):
        # Parts overlap, so that no match is cut.
        end = start + _BYTES_AT_ONCE + _MAX_DIGITS
        found = pattern.search(text, start, end)
        # The byte after a match at the end is in the next part.
        if found and (found.end() < end or end >= len(text)):
            return True
    return False


def decode_part(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the part of a JSON text that a decoder takes; the rest is only checked.

    Accepts the same texts as ``decode``, of any number of values, in a fraction of the time. In a
    decoded str, halves of surrogate pairs are U+FFFD if one of the text is lone.

    Raises:
        msgspec.ValidationError: The text has another type than the decoder's.
        ValueError: The text is not JSON, or not UTF-8.
    """
    if not text.isascii():
        # The decoder does not check the text that it skips.
        text.decode()
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        # msgspec refuses lone surrogates.
        replaced = _WHOLE_SURROGATE_ESCAPE.sub(rb"\\ufffd", text)
        if replaced == text:
            raise
    return decoder.decode(replaced)


def type_of(text: bytes) -> type | None:
    """Return the type of a JSON text's value, such as ``dict``; None if the text is not JSON.

    Accepts the same texts as ``decode``, of any number of values, in a fraction of the time.
    """
    try:
        found = decode_part(text, _RAW)
    except ValueError:
        return None
    return _TYPES.get(bytes(memoryview(found)[:1]), float)


def has_surrogate_escape(text: bytes) -> bool:
    """Return whether a JSON text may contain an escaped surrogate, paired or lone."""
    return _SURROGATE_ESCAPE.search(text) is not None


def encode(value: Any) -> bytes:
    """Return the JSON text of a value, in UTF-8 without whitespace."""
    try:
        return orjson.dumps(value, default=_written)
    except TypeError:
        # orjson refuses integers beyond 64 bits and lone surrogates.
        parts: list[str] = []
        _write(value, parts)
        return "".join(parts).encode(errors="backslashreplace")


def _decode_carefully(text: bytes) -> Any:
    if len(text) > MAX_CAREFUL_BYTES:
        raise TooLarge(
            f"it has more than {MAX_CAREFUL_BYTES // 1024**2} MiB, with lone surrogates, -0 or "
            "long integers in it"
        )
    # A call for each integer takes ten times as long as the rest.
    is_exact = not (_has_match(_NEGATIVE_ZERO, text) or _has_match(_LONG_INTEGER, text))
    try:
        # json.loads would accept encoded surrogates, which are not valid UTF-8, from bytes.
        return json.loads(
            text.decode(),
            parse_float=ExactNumber,
            parse_int=int if is_exact else _integer,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(text: str) -> int | ExactNumber:
    return int(text) if len(text) <= _MAX_DIGITS and text != "-0" else ExactNumber(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _written(number: object) -> orjson.Fragment:
    if isinstance(number, ExactNumber):
        return orjson.Fragment(number.text)
    raise TypeError(f"{type(number).__name__} has no JSON")


def _write(value: Any, parts: list[str]) -> None:
    """Append the JSON of a value in pieces; lone surrogates are left unescaped."""
    match value:
        case str():
            parts.append(encode_basestring(value))
        case list() | tuple():
            parts.append("[")
            for child in value:
                _write(child, parts)
                parts.append(",")
            _close(parts, "[", "]")
        case dict():
            parts.append("{")
            for name, child in value.items():
                parts += (encode_basestring(name), ":")
                _write(child, parts)
                parts.append(",")
            _close(parts, "{", "}")
        case ExactNumber():
            parts.append(value.text)
        case True | False | None:
            parts.append(_CONSTANTS[value])
        case int():
            parts.append(int.__repr__(value))
        case _:
            parts.append(json.dumps(value))


def _close(parts: list[str], opened: str, bracket: str) -> None:
    """Close a list or object whose last piece is a comma or its opening bracket."""
    if parts[-1] == opened:
        parts.append(bracket)
    else:
        parts[-1] = bracket
