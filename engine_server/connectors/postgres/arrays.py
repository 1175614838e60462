"""Arguments that are arrays, in the one form that the driver knows beforehand: text."""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

_Value: TypeAlias = str | bytes | bool | int | float | datetime


def text_array(values: Iterable[_Value | None]) -> list[str | None]:
    """Return values as Postgres reads them, for an SQL expression such as ``$1::text[]::bytea[]``.

    Of all array types asyncpg 0.32 knows only those of text and oid. About another one it asks
    each new connection, which takes Postgres several milliseconds, and changes a setting of the
    session for it, which a pooler may hand to others.
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
