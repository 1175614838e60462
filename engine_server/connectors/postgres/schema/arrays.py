"""Array arguments of statements, encoded as arrays of text."""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

_Value: TypeAlias = str | bytes | bool | int | float | datetime


def text_array(values: Iterable[_Value | None]) -> list[str | None]:
    """Return values in Postgres's text format, for an expression such as ``$1::text[]::bytea[]``.

    The only array types that asyncpg 0.32 knows are those of text and oid. It looks up any other
    type on each new connection, which takes several milliseconds, and changes a setting of the
    session meanwhile, which a pooler may hand to others.
    """
    return [None if value is None else _text(value) for value in values]


def _text(value: _Value) -> str:
    if isinstance(value, bytes):
        # https://www.postgresql.org/docs/current/datatype-binary.html, "bytea Hex Format"
        return f"\\x{value.hex()}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
