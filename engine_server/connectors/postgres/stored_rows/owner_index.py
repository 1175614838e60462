"""The index by owner, created on tables that exist without it.

A new table has the index from the start. On others it is created without blocking writers, which
Postgres does outside of transactions only (https://www.postgresql.org/docs/current/sql-createindex.html).
"""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.errors import describe
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.connection.watch import watched
from engine_server.connectors.postgres.schema.tables import Table, by_name, quote
from engine_server.connectors.postgres.stored_rows import queries
from pipesync.v1.message_pb2 import Log

_STATE = files(__package__).joinpath("owner_index_state.sql").read_text()
# Errors that leave a table without the index; queries then read the whole table.
_NOT_MADE = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)


async def create_missing(pool: Pool, config: PostgresConfig, tables: Sequence[Table]) -> list[Log]:
    """Create the index on each table that lacks it; safe to repeat and to interrupt.

    Returns:
        A message for each index that was created or could not be.

    Raises:
        ConnectionFailed: Postgres cannot be reached, or the connection was lost.
        ConnectorError: Postgres refused.
    """
    logs = []
    for table in by_name(tables):
        if table.owner_field:
            make = partial(_make, config, table)
            logs += await retry.Retries(pool, timeout=retry.CALL_TIMEOUT).use(make)
    return logs


async def _make(config: PostgresConfig, table: Table, connection: Connection) -> list[Log]:
    index = queries.owner_index(table, table.owner_field)
    state = await connection.fetchrow(_STATE, table.schema, table.name, index.name)
    if state is None or state["is_ready"] or state["is_being_made"]:
        return []
    try:
        async with watched(connection, config) as session:
            session.pid = await connection.fetchval("SELECT pg_backend_pid()")
            if state["is_there"]:
                # An interrupted creation leaves an invalid index.
                name = f"{quote(table.schema)}.{quote(index.name)}"
                await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            await connection.execute(index.concurrent_statement)
            # Without statistics, Postgres expects little of the index.
            await connection.execute(f"ANALYZE {table.quoted}")
    except _NOT_MADE as error:
        message = (
            f"table {table.quoted} has no index by {quote(table.owner_field)}: {describe(error)}. "
            f"Its owner may say: {index.concurrent_statement}"
        )
        return [Log(level=Log.LEVEL_WARN, message=message)]
    message = f"created index {quote(index.name)} of table {table.quoted}"
    return [Log(level=Log.LEVEL_INFO, message=message)]
