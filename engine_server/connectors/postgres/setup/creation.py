"""Creation of the schema, its tables and their columns."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.checkpoints import lost_rows
from engine_server.connectors.postgres.connection.errors import describe, is_contention, is_refusal
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import own_key, tombstones
from engine_server.connectors.postgres.schema.existing import (
    SET_LOCK_TIMEOUT,
    lock,
    refuse_protected,
)
from engine_server.connectors.postgres.schema.own_key import OwnKey
from engine_server.connectors.postgres.schema.tables import ColumnMode, Table
from engine_server.connectors.postgres.setup.definition import column_mode
from engine_server.connectors.postgres.setup.differences import (
    Change,
    find_differences,
    missing_kept,
    refuse_unusable,
)
from engine_server.errors import ConnectorError

# Bytes. Rewriting a larger table may exceed the time limit of a sync.
_LARGE_TABLE = 256 << 20
# Seconds that adding columns waits for a table in use: later statements queue behind it.
_COLUMNS_LOCK_TIMEOUT = 3.0
_TABLE_SIZE = "SELECT pg_catalog.pg_table_size($1::text::regclass)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreationResult:
    """Outcome of the creation of missing definitions.

    Attributes:
        made: A sentence for each change that was made, in order.
        warnings: A sentence for each change that is left to setup, and for each existing column
            that does not fit its field.
        refused: The reason for each stream that cannot be written: its table is unusable, or
            Postgres refuses to create it.
    """

    made: Sequence[str]
    warnings: Sequence[str]
    refused: Mapping[str, str]


async def create_missing(
    connection: Connection,
    schema: str,
    tables: Sequence[Table],
    columns: ColumnMode | None,
    *,
    hard_delete: bool,
    for_sync: bool = False,
) -> CreationResult:
    """Create the missing schema, tables and columns.

    Safe to repeat, and to run twice at once. When nothing is missing, it only reads. Existing
    columns stay as they are, even if their field was removed or has another type now; only virtual
    columns of references are changed. With permanent deletion, a table of tombstones is created.

    Setup creates everything or nothing. A sync continues with the tables that it can use:

    - A row is written whole even if a column is missing. A column is left to setup, with a warning,
      if the role may not add it, if it waits for other users of the table, or if it would rewrite a
      large table within the sync's time limit.
    - A table that Postgres refuses to create fails only its stream; so does an existing table that
      the engine did not create, or that has another key.
    - Without the primary key of the table of tombstones, streams that need tombstones are refused.
    - The tables of rejected records and of recorded checkpoints are created together with others,
      but a sync does not need them.

    Args:
        connection: The connection.
        schema: The schema.
        tables: The tables of the streams.
        columns: The mode of typed columns; None for the default.
        hard_delete: Whether deleted rows are removed.
        for_sync: Whether the call is part of a sync.

    Returns:
        The changes that were made, and those that remain.

    Raises:
        ConnectorError: The schema is one of Postgres's own, or the server is too old for the wanted
            columns; or Postgres refuses a necessary statement. For setup also: a table of that name
            was not created by the engine, or has another key.
    """
    refuse_protected(schema)
    mode = column_mode(connection, columns)
    found = await find_differences(connection, schema, tables, mode, hard_delete)
    if not for_sync:
        refuse_unusable(found)
    if not (found.changes or (not for_sync and await missing_kept(connection, schema))):
        return CreationResult(made=(), warnings=found.warnings, refused=found.unusable)
    async with connection.transaction():
        await lock(connection, schema)
        found = await find_differences(connection, schema, tables, mode, hard_delete)
        changes = [*found.changes]
        if not for_sync:
            refuse_unusable(found)
        if not for_sync or any(change.alters is None for change in changes):
            changes += await missing_kept(connection, schema)
        made: list[Change] = []
        warnings, refused = [*found.warnings], {**found.unusable}
        for change in changes:
            if for_sync and (table := change.alters) is not None:
                if reason := await _left_to_setup(connection, table, change.statement, mode):
                    warnings.append(f"not yet {change.sentence}: {reason}; setup adds them")
                    continue
            elif for_sync and (table := change.creates) is not None:
                if reason := await _refusal(connection, change.statement, table):
                    refused[table.stream] = (
                        f"Postgres refused to create table {table.quoted}: {reason}"
                    )
                    continue
            elif for_sync and (key := change.adds_key) is not None:
                if reason := await own_key.add(connection, key):
                    if not change.is_for_kept:
                        refused.update(_without_tombstones(tables, key, reason))
                    continue
            elif for_sync and change.is_for_kept:
                if await _refusal(connection, change.statement):
                    continue
            else:
                with _naming_refusal(change.sentence):
                    await connection.execute(change.statement)
            made.append(change)
        created = [change.creates.stream for change in made if change.creates is not None]
        await lost_rows.forget_created(connection, schema, created)
    return CreationResult(
        made=[change.sentence for change in made], warnings=warnings, refused=refused
    )


def _without_tombstones(tables: Sequence[Table], key: OwnKey, reason: str) -> dict[str, str]:
    """Return the streams that cannot keep tombstones: late records would restore deleted rows."""
    return {
        table.stream: f"{key.missing}, so deletions of {table.stream} cannot be noted there, and "
        f"Postgres refused to add it: {reason}. To go on, {key.remedy}"
        for table in tables
        if tombstones.are_kept(table)
    }


async def _left_to_setup(
    connection: Connection, table: Table, statement: str, mode: ColumnMode
) -> str:
    """Add columns to a table, or return why that is left to setup; empty when it is done."""
    if mode == "stored":
        size = await connection.fetchval(_TABLE_SIZE, table.quoted)
        if size > _LARGE_TABLE:
            return f"the table of {size >> 20} MiB would be written anew"
    timeout = await connection.fetchval("SELECT pg_catalog.current_setting('lock_timeout')")
    await connection.fetchval(SET_LOCK_TIMEOUT, f"{_COLUMNS_LOCK_TIMEOUT * 1000:.0f}")
    try:
        reason = await _refusal(connection, statement, table)
    except asyncpg.PostgresError as error:
        if not is_contention(error):
            raise
        reason = describe(error, table.names)
    await connection.fetchval(SET_LOCK_TIMEOUT, timeout)
    return reason


async def _refusal(connection: Connection, statement: str, table: Table | None = None) -> str:
    """Execute a statement, or return why Postgres refuses it; empty when it is done."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return describe(error, table.names if table is not None else ())
    return ""


@contextmanager
def _naming_refusal(sentence: str) -> Iterator[None]:
    """Add the failed change to the error of a refused statement.

    Raises:
        ConnectorError: Postgres refuses the statement, but is otherwise usable.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        raise ConnectorError(f"Postgres refused: {describe(error)}; so not {sentence}") from error
