"""Names the record that Postgres refuses, where there is no table to keep it in."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import asyncpg

from engine_server.connectors.postgres.faults import describe, is_refusal
from engine_server.connectors.postgres.rejection import describe_key, identify
from engine_server.connectors.postgres.rows import StreamRows
from engine_server.connectors.postgres.tables import Table
from engine_server.connectors.postgres.transaction import Transaction
from engine_server.connectors.postgres.upsert import upsert_arguments

# A transaction of which nothing is kept.
Trial: TypeAlias = Callable[[], AbstractAsyncContextManager[Transaction]]


async def explain(
    error: asyncpg.PostgresError,
    trial: Trial,
    table: Table,
    statement: str,
    rows: StreamRows,
) -> str:
    """Why ``records`` were refused, with the key of the offending one where it can be told.

    Args:
        error: What Postgres answered to all of them.
        trial: Begins a transaction to try some of them in.
        table: Their table.
        statement: What writes them.
        rows: At least one.
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
    trial: Trial, statement: str, rows: StreamRows
) -> tuple[bytes, asyncpg.PostgresError] | None:
    """Halves the records until one is left; None when that one is refused only in company."""
    first, end = 0, len(rows)
    while end - first > 1:
        middle = (first + end) // 2
        if await _refused(trial, statement, rows.picked(range(first, middle))):
            end = middle
        else:
            first = middle
    error = await _refused(trial, statement, rows.picked(range(first, end)))
    return None if error is None else (rows.record(first), error)


async def _refused(trial: Trial, statement: str, rows: StreamRows) -> asyncpg.PostgresError | None:
    try:
        async with trial() as begun:
            await begun.fetch(statement, *upsert_arguments(rows))
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return error
    return None
