"""Makes what is missing of the schema, its tables and their columns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import asyncpg

from engine_server.connectors.postgres import deleted_rows, own_key
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.definition import (
    Differences,
    add_missing_kept,
    column_mode,
    find_differences,
    refuse_unusable,
)
from engine_server.connectors.postgres.existing import SET_LOCK_TIMEOUT, lock, refuse_protected
from engine_server.connectors.postgres.faults import describe, is_contention, is_refusal
from engine_server.connectors.postgres.own_key import OwnKey
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.tables import ColumnMode, Table
from engine_server.errors import ConnectorError

# A larger one may take longer to be written anew than a sync has in all.
_LARGE_TABLE = 256 << 20
# Seconds that columns wait for a table that others use: all who come after them wait, too.
_COLUMNS_PATIENCE = 3.0
_TABLE_SIZE = "SELECT pg_catalog.pg_table_size($1::text::regclass)"


async def make_missing(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    columns: ColumnMode | None,
    *,
    hard_delete: bool,
    for_sync: bool = False,
) -> Differences:
    """Make the schema, tables and columns that are not there yet.

    Safe to repeat, and to run twice at once. When nothing is missing it only reads. Nothing that
    exists is changed or dropped: not a column whose field is gone, nor one whose field has
    another type now. Where rows are deleted for good, there is a table that says which.

    Setup makes all of it or nothing. A sync goes on with what it can use:

    - A row is written whole without a column that is missing. One that its role may not add, that
      waits for others who use the table, or that would have a large table written anew within the
      sync's time limit, is left to setup, with a warning.
    - A table that Postgres refuses to make is a matter of its stream, and so is one of that name
      that was made by others or has another key.
    - Without the primary key of the table that says which rows were deleted for good, nothing is
      written of the streams that note them there.
    - The tables of rejected records and of recorded checkpoints are made beside others, and a sync
      can do without.

    Args:
        connection: Where to make them.
        schema: The schema.
        tables: The tables that streams are written to.
        columns: How typed columns are made.
        hard_delete: Whether deleted rows are removed.
        for_sync: Whether a sync makes them.

    Returns:
        What was made, what was refused, and what stays other than it should be.

    Raises:
        ConnectorError: The schema is one of Postgres's own, or the server is too old for the
            columns that were asked for; or Postgres refuses what cannot be done without. For setup
            also: a table of that name was made by others, or has another key.
    """
    refuse_protected(schema)
    mode = column_mode(connection, columns)
    wanted = tables, mode, hard_delete
    differences = await find_differences(connection, schema, *wanted)
    if not for_sync:
        refuse_unusable(differences)
        await add_missing_kept(connection, schema, differences)
    if not differences.missing:
        differences.refused.update(differences.unusable)
        return differences
    async with connection.transaction():
        await lock(connection, schema)
        differences = await find_differences(connection, schema, *wanted)
        differences.refused.update(differences.unusable)
        if not for_sync:
            refuse_unusable(differences)
        if not for_sync or not differences.missing.keys() <= differences.columns.keys():
            await add_missing_kept(connection, schema, differences)
        for sentence, statement in list(differences.missing.items()):
            if for_sync and sentence in differences.columns:
                table = differences.columns[sentence]
                if reason := await _left_to_setup(connection, table, statement, mode):
                    del differences.missing[sentence]
                    differences.warnings.append(f"not yet {sentence}: {reason}; setup adds them")
            elif for_sync and sentence in differences.created:
                table = differences.created[sentence]
                if reason := await _refusal(connection, statement, table):
                    del differences.missing[sentence], differences.created[sentence]
                    differences.refused[table.stream] = (
                        f"Postgres refused to create table {table.quoted}: {reason}"
                    )
            elif for_sync and sentence in differences.keys:
                key = differences.keys[sentence]
                if reason := await own_key.add(connection, key):
                    del differences.missing[sentence]
                    if sentence not in differences.kept:
                        differences.refused.update(_unnoted(tables, key, reason))
            elif for_sync and sentence in differences.kept:
                if await _refusal(connection, statement):
                    del differences.missing[sentence]
            else:
                with _blamed(sentence):
                    await connection.execute(statement)
        created = [table.stream for table in differences.created.values()]
        await checkpoints.forget_created(connection, schema, created)
    return differences


def _unnoted(tables: Sequence[Table], key: OwnKey, reason: str) -> dict[str, str]:
    """The streams whose deletions cannot be noted: what comes late would bring rows back."""
    return {
        table.stream: f"{key.missing}, so deletions of {table.stream} cannot be noted there, and "
        f"Postgres refused to add it: {reason}. To go on, {key.remedy}"
        for table in tables
        if deleted_rows.are_noted(table)
    }


async def _left_to_setup(
    connection: Connection, table: Table, statement: str, mode: ColumnMode
) -> str:
    """Add columns to a table, or say why that is left to setup; empty when it is done."""
    if mode == "stored":
        size = await connection.fetchval(_TABLE_SIZE, table.quoted)
        if size > _LARGE_TABLE:
            return f"the table of {size >> 20} MiB would be written anew"
    timeout = await connection.fetchval("SELECT pg_catalog.current_setting('lock_timeout')")
    await connection.fetchval(SET_LOCK_TIMEOUT, f"{_COLUMNS_PATIENCE * 1000:.0f}")
    try:
        reason = await _refusal(connection, statement, table)
    except asyncpg.PostgresError as error:
        if not is_contention(error):
            raise
        reason = describe(error, table.names)
    await connection.fetchval(SET_LOCK_TIMEOUT, timeout)
    return reason


async def _refusal(connection: Connection, statement: str, table: Table | None = None) -> str:
    """Execute a statement, or say why Postgres refuses it; empty when it is done."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return describe(error, table.names if table is not None else ())
    return ""


@contextmanager
def _blamed(sentence: str) -> Iterator[None]:
    """Name the statement that Postgres refuses.

    Raises:
        ConnectorError: Postgres refuses it for a reason that is not of the whole server.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        raise ConnectorError(f"Postgres refused: {describe(error)}; so not {sentence}") from error
