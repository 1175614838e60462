"""Finds the record that Postgres refuses, and says which it is."""

import json
from collections.abc import Sequence

import asyncpg

from engine_server.connectors.postgres.faults import describe, is_refusal, lies_in_a_record
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import Table


async def explain(
    error: asyncpg.PostgresError,
    connection: Connection,
    table: Table,
    statement: str,
    records: Sequence[bytes],
) -> str:
    """Why ``records`` were refused, with the key of the offending one where it can be told.

    Args:
        error: What Postgres answered to all of them.
        connection: Where to try parts of them; nothing is kept of it.
        table: Their table.
        statement: What writes them.
        records: At least one.
    """
    if not lies_in_a_record(error):
        return f"Postgres refused to write to table {table.quoted}: {describe(error)}"
    found = await _first_refused(connection, statement, records)
    if found is None:
        return f"Postgres refused records of {table.stream}: {describe(error)}"
    offender, error = found
    return (
        f"Postgres refused a record of {table.stream} ({_key(table, offender)}): {describe(error)}"
    )


async def _first_refused(
    connection: Connection, statement: str, records: Sequence[bytes]
) -> tuple[bytes, asyncpg.PostgresError] | None:
    """Halves the records until one is left; None when that one is refused only in company."""
    first, end = 0, len(records)
    while end - first > 1:
        middle = (first + end) // 2
        if await _refused(connection, statement, records[first:middle]):
            end = middle
        else:
            first = middle
    error = await _refused(connection, statement, records[first:end])
    return None if error is None else (records[first], error)


async def _refused(
    connection: Connection, statement: str, records: Sequence[bytes]
) -> asyncpg.PostgresError | None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.fetchrow(statement, records)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return error
    finally:
        await transaction.rollback()
    return None


def _key(table: Table, record: bytes) -> str:
    """The record's key in words. The one place where a record is parsed, and it may not be JSON."""
    try:
        fields = json.loads(record)
        values = []
        for column in table.key:
            value = fields
            for segment in column.path:
                value = value[segment]
            values.append(f"{column.name} {json.dumps(value)}")
    except (ValueError, LookupError, TypeError):
        return "its key cannot be read"
    return ", ".join(values)
