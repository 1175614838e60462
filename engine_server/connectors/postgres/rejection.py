"""A record that Postgres refused: whose row it is of, how new it is, and why."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Self

import asyncpg

from engine_server.connectors.postgres.arrays import text_array
from engine_server.connectors.postgres.faults import describe
from engine_server.connectors.postgres.tables import ACCOUNT_ID, Table
from engine_server.text import storable

_MAX_KEY_LENGTH = 200
# A timestamptz lies between the years -4713 and 294276.
_EARLIEST_TIME, _LATEST_TIME = -2e11, 9e12
_LARGEST_EXPONENT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which row a record is of, and how new it is.

    Attributes:
        key: The columns of the row's key as Postgres has them, None where one is missing; None when
            the record cannot be read.
        account_id: None when it is not known.
        updated_at: In Unix seconds; None when the record does not say.
        is_deleted: Whether the record says that the object is deleted.
        digest: The same for all records of one row and account.
    """

    key: tuple[str | None, ...] | None
    account_id: str | None
    updated_at: float | None
    is_deleted: bool
    digest: bytes

    def outdates(self, other: Self) -> bool:
        """Whether this one, which arrived later, takes the place of ``other`` of the same row."""
        if self.updated_at is None or other.updated_at is None:
            return True
        if self.updated_at == other.updated_at:
            return self.is_deleted or not other.is_deleted
        return self.updated_at > other.updated_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A record that Postgres refused.

    Attributes:
        identity: Which row it is of.
        record: As the source sent it.
        sqlstate: What Postgres answered.
        reason: The same in words, without anything of the row.
    """

    identity: Identity
    record: bytes
    sqlstate: str
    reason: str


def identify(table: Table, record: bytes) -> Identity:
    """Read which row of ``table`` a record is of. The one place where records are parsed."""
    fields = _fields(record)
    if fields is None:
        return Identity(
            key=None,
            account_id=table.account_id or None,
            updated_at=None,
            is_deleted=False,
            digest=hashlib.sha256(record).digest(),
        )
    key = tuple(_text(_value(fields, column.path)) for column in table.key)
    account_id = _text(fields.get(ACCOUNT_ID))
    # Without its whole key nothing tells a record from others, but all of it.
    known = json.dumps([*key, account_id]).encode() if None not in key else record
    return Identity(
        key=key,
        account_id=account_id or table.account_id or None,
        updated_at=_time(fields.get(table.newer_than_field)),
        is_deleted=fields.get(table.soft_delete_field) is True,
        digest=hashlib.sha256(known).digest(),
    )


def reject(table: Table, record: bytes, error: asyncpg.PostgresError) -> Rejection:
    """Note that Postgres refused ``record`` with ``error``."""
    return Rejection(
        identity=identify(table, record),
        record=record,
        sqlstate=error.sqlstate or "",
        reason=storable(describe(error, table.names)),
    )


def describe_key(table: Table, identity: Identity) -> str:
    """The key of a record in words."""
    if identity.key is None or None in identity.key:
        return "its key cannot be read"
    key = ", ".join(
        f"{column.name} {json.dumps(value, ensure_ascii=False)}"
        for column, value in zip(table.key, identity.key, strict=True)
    )
    # One too long for an index is what may be wrong with it.
    return key if len(key) <= _MAX_KEY_LENGTH else f"{key[:_MAX_KEY_LENGTH]}..."


def kept_arguments(rejections: Iterable[Rejection]) -> tuple[Sequence[Any], ...]:
    """What a statement of ``rejected_table.kept_statement`` takes."""
    # Always in one order, so that two transactions cannot lock each other's entries out.
    ordered = sorted(rejections, key=lambda rejection: rejection.identity.digest)
    identities = [rejection.identity for rejection in ordered]
    return (
        text_array(identity.digest for identity in identities),
        [_json(identity.key) for identity in identities],
        [identity.account_id for identity in identities],
        text_array(identity.updated_at for identity in identities),
        text_array(identity.is_deleted for identity in identities),
        text_array(rejection.record for rejection in ordered),
        [rejection.sqlstate for rejection in ordered],
        [rejection.reason for rejection in ordered],
    )


def without_untranslatable_key(rejection: Rejection) -> Rejection:
    """Return the rejection without a key that a database in another encoding may not hold."""
    key = rejection.identity.key
    if key is None or all(value is None or value.isascii() for value in key):
        return rejection
    return replace(rejection, identity=replace(rejection.identity, key=None))


def _json(key: Sequence[str | None] | None) -> str | None:
    # Not escaped: a database in another encoding than UTF-8 refuses escapes of all but ASCII.
    return None if key is None else json.dumps(key, ensure_ascii=False)


def _fields(record: bytes) -> dict[str, Any] | None:
    try:
        # As Decimal, for numbers of any size are written as they were.
        fields = json.loads(record.decode(), parse_int=Decimal, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _value(fields: dict[str, Any], path: Sequence[str]) -> object:
    value: object = fields
    for segment in path:
        value = value.get(segment) if isinstance(value, dict) else None
    return value


def _text(value: object) -> str | None:
    """A value as Postgres makes text of it."""
    match value:
        case None:
            return None
        case str():
            return storable(value)
        case bool():
            return "true" if value else "false"
        case Decimal() if abs(value.adjusted()) < _LARGEST_EXPONENT:
            return f"{value:f}"
        case _:
            return storable(json.dumps(value, default=str))


def _time(value: object) -> float | None:
    try:
        # A time may be written as text.
        time = float(str(value)) if isinstance(value, (Decimal, str)) else None
    except ValueError:
        return None
    return time if time is not None and _EARLIEST_TIME < time < _LATEST_TIME else None
