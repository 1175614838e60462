"""Records that Postgres refused, with their row, time and reason."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Self

import asyncpg

from engine_server.connectors.postgres.connection.errors import describe, sqlstate_of
from engine_server.connectors.postgres.schema.arrays import text_array
from engine_server.connectors.postgres.schema.tables import ACCOUNT_ID, Table
from engine_server.text import storable

_MAX_KEY_LENGTH = 200
# A timestamptz lies between the years -4713 and 294276.
_EARLIEST_TIME, _LATEST_TIME = -2e11, 9e12
_LARGEST_EXPONENT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The row and the time of a record.

    Attributes:
        key: The key columns of the row as Postgres stores them, None where one is missing; None
            when the record cannot be parsed.
        account_id: The account; None when it is unknown.
        updated_at: Unix seconds; None when the record has no time.
        is_deleted: Whether the record marks the object as deleted.
        digest: Equal for all records of one row and account.
    """

    key: tuple[str | None, ...] | None
    account_id: str | None
    updated_at: float | None
    is_deleted: bool
    digest: bytes

    def outdates(self, other: Self) -> bool:
        """Return whether this record, which arrived later, replaces ``other`` of the same row."""
        if self.updated_at is None or other.updated_at is None:
            return True
        if self.updated_at == other.updated_at:
            return self.is_deleted or not other.is_deleted
        return self.updated_at > other.updated_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A record that Postgres refused.

    Attributes:
        identity: Its row and time.
        record: The record as the source sent it.
        sqlstate: The SQLSTATE of the refusal.
        reason: The message of the refusal, without values of the row.
    """

    identity: Identity
    record: bytes
    sqlstate: str
    reason: str


def identify(table: Table, record: bytes) -> Identity:
    """Return the row and time of a record of ``table``. Records are parsed only here."""
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
    # A record without its whole key is identified by its whole text.
    known = json.dumps([*key, account_id]).encode() if None not in key else record
    return Identity(
        key=key,
        account_id=account_id or table.account_id or None,
        updated_at=_time(fields.get(table.newer_than_field)),
        is_deleted=fields.get(table.soft_delete_field) is True,
        digest=hashlib.sha256(known).digest(),
    )


def reject(table: Table, record: bytes, error: asyncpg.PostgresError) -> Rejection:
    """Return the rejection of ``record``, which Postgres refused with ``error``."""
    return Rejection(
        identity=identify(table, record),
        record=record,
        sqlstate=sqlstate_of(error),
        reason=storable(describe(error, table.names)),
    )


def describe_key(table: Table, identity: Identity) -> str:
    """Return the key of a record as text."""
    if identity.key is None or None in identity.key:
        return "its key cannot be read"
    key = ", ".join(
        f"{column.name} {json.dumps(value, ensure_ascii=False)}"
        for column, value in zip(table.key, identity.key, strict=True)
    )
    # A key that is too long for an index may be the reason for the refusal.
    return key if len(key) <= _MAX_KEY_LENGTH else f"{key[:_MAX_KEY_LENGTH]}..."


def kept_arguments(rejections: Iterable[Rejection]) -> tuple[Sequence[Any], ...]:
    """Return the arguments of a statement of ``rejected_table.kept_statement``."""
    # In one order, so that two transactions cannot deadlock.
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
    """Return the rejection without a key that a database in another encoding may refuse."""
    key = rejection.identity.key
    if key is None or all(value is None or value.isascii() for value in key):
        return rejection
    return replace(rejection, identity=replace(rejection.identity, key=None))


def _json(key: Sequence[str | None] | None) -> str | None:
    # Not escaped: a database in another encoding than UTF-8 refuses escapes of all but ASCII.
    return None if key is None else json.dumps(key, ensure_ascii=False)


def _fields(record: bytes) -> dict[str, Any] | None:
    try:
        # Decimal keeps numbers of any size as they were written.
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
    """Return a value as Postgres converts it to text."""
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
