"""Search for the record that Postgres refuses, where no table can keep it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import asyncpg

from engine_server.connectors.postgres.connection.errors import describe, is_refusal
from engine_server.connectors.postgres.connection.transaction import Transaction
from engine_server.connectors.postgres.rejection.rejection import describe_key, identify
from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.postgres.rows.upsert import upsert_arguments
from engine_server.connectors.postgres.schema.tables import Table

# Begins a transaction that is rolled back at its end.
BeginTrial: TypeAlias = Callable[[], AbstractAsyncContextManager[Transaction]]


async def explain(
    error: asyncpg.PostgresError,
    trial: BeginTrial,
    table: Table,
    statement: str,
    rows: StreamRows,
) -> str:
    """Return why rows were refused, with the key of the offending record where it is found.

    Args:
        error: The error of Postgres for all rows.
        trial: Begins a transaction to try some of them.
        table: Their table.
        statement: SQL that writes them.
        rows: At least one row.
    """
    found = await _first_refused(trial, statement, rows)
    if found is None:
        return f"Postgres refused records of {table.stream}: {describe(error, table.names)}"
    offender, error = found
    return (
        f"Postgres refused a record of {table.stream} "
        f"({describe_key(table, identify(table, offender))}): {describe(error, table.names)}"
    )


async def _first_refused(
    trial: BeginTrial, statement: str, rows: StreamRows
) -> tuple[bytes, asyncpg.PostgresError] | None:
    """Return the refused record, found by bisection; None when it is accepted on its own."""
    first, end = 0, len(rows)
    while end - first > 1:
        middle = (first + end) // 2
        if await _refused(trial, statement, rows.select(range(first, middle))):
            end = middle
        else:
            first = middle
    error = await _refused(trial, statement, rows.select(range(first, end)))
    return None if error is None else (rows.record(first), error)


async def _refused(
    trial: BeginTrial, statement: str, rows: StreamRows
) -> asyncpg.PostgresError | None:
    try:
        async with trial() as begun:
            await begun.fetch(statement, *upsert_arguments(rows))
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return error
    return None
