"""JSON in and out without loss: numbers keep their digits, and texts their lone surrogates.

RFC 8259 lets a text escape one half of a surrogate pair (section 8.2) and a number have any number
of digits (section 6). Decoders that are fast refuse the one and round the other.
"""

import json
import re
from typing import Any, NoReturn, Self

import msgspec
import orjson

# An integer with more digits may not fit into 64 bits.
_MOST_DIGITS = 18
# Zero with a sign, which an int does not have.
_NEGATIVE_ZERO = re.compile(rb"-0(?![0-9.eE])")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class ExactNumber(float):
    """A number of a JSON text, with its digits as they were written.

    Attributes:
        text: The number as it was written, e.g. ``1.10``; the float may be another.
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Self:
        """Keeps the text beside its value."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Return itself: it never changes."""
        return self


_DECODER = msgspec.json.Decoder(float_hook=ExactNumber)


def decode(text: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Numbers with a fraction or an exponent are ``ExactNumber``; a str may hold lone surrogates.

    Raises:
        ValueError: It is not JSON, cut off perhaps, or not UTF-8.
    """
    # To look for two characters first is the faster by far.
    if b"-0" in text and _NEGATIVE_ZERO.search(text):
        return _decode_carefully(text)
    try:
        return _DECODER.decode(text)
    except UnicodeDecodeError:
        raise
    except ValueError:
        # The one decoder refuses lone surrogates and integers of thousands of digits.
        return _decode_carefully(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def has_surrogate_escape(text: bytes) -> bool:
    """Whether a JSON text may hold the escape of a surrogate, in a pair or alone."""
    return _SURROGATE_ESCAPE.search(text) is not None


def encode(value: Any) -> bytes:
    """Return the JSON text of a value, as UTF-8 without white space."""
    try:
        return orjson.dumps(value, default=_written)
    except TypeError:
        # An integer beyond 64 bits, or a lone surrogate.
        return "".join(_parts(value)).encode(errors="backslashreplace")


def _decode_carefully(text: bytes) -> Any:
    try:
        # Decoded here: json.loads lets through surrogates that UTF-8 does not have.
        return json.loads(
            text.decode(),
            parse_float=ExactNumber,
            parse_int=_integer,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(text: str) -> int | ExactNumber:
    return int(text) if len(text) <= _MOST_DIGITS and text != "-0" else ExactNumber(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _written(number: object) -> orjson.Fragment:
    if isinstance(number, ExactNumber):
        return orjson.Fragment(number.text)
    raise TypeError(f"{type(number).__name__} has no JSON")


def _parts(value: Any) -> list[str]:
    """The JSON of a value in pieces; lone surrogates stand in it as they are."""
    match value:
        case ExactNumber():
            return [value.text]
        case dict():
            parts = ["{"]
            for name, child in value.items():
                parts += (_text(name), ":", *_parts(child), ",")
            return _closed(parts, "}")
        case list() | tuple():
            parts = ["["]
            for child in value:
                parts += (*_parts(child), ",")
            return _closed(parts, "]")
        case str():
            return [_text(value)]
    return [json.dumps(value)]


def _closed(parts: list[str], bracket: str) -> list[str]:
    if parts[-1] == ",":
        parts[-1] = bracket
    else:
        parts.append(bracket)
    return parts


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
