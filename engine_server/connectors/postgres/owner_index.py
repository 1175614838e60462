"""The index by which the records of an owner are found, made on tables that have rows already.

A new table has it from the start. On others it is made without keeping writers waiting, which
Postgres does in no transaction (https://www.postgresql.org/docs/current/sql-createindex.html).
"""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres import inventory_questions as questions
from engine_server.connectors.postgres import retry
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.faults import describe
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.tables import Table, by_name, quote
from engine_server.connectors.postgres.watch import watched
from pipesync.v1.message_pb2 import Log

_STATE = files(__package__).joinpath("owner_index_state.sql").read_text()
# Why there may be none; questions then read the whole table.
_NOT_MADE = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)


async def make_missing(pool: Pool, config: PostgresConfig, tables: Sequence[Table]) -> list[Log]:
    """Makes the index of each table that lacks it, and says so; safe to repeat and to cut short.

    Raises:
        ConnectionFailed: Postgres cannot be reached, or the connection was lost.
        ConnectorError: Postgres refused.
    """
    logs = []
    for table in by_name(tables):
        if table.owner_field:
            make = partial(_make, config, table)
            logs += await retry.Retries(pool, patience=retry.CALL_PATIENCE).use(make)
    return logs


async def _make(config: PostgresConfig, table: Table, connection: Connection) -> list[Log]:
    index = questions.owner_index(table, table.owner_field)
    state = await connection.fetchrow(_STATE, table.schema, table.name, index.name)
    if state is None or state["is_ready"] or state["is_being_made"]:
        return []
    try:
        async with watched(connection, config) as session:
            session.pid = await connection.fetchval("SELECT pg_backend_pid()")
            if state["is_there"]:
                # One that was cut short stays, and is of no use.
                name = f"{quote(table.schema)}.{quote(index.name)}"
                await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            await connection.execute(index.concurrent_statement)
            # Until it knows how the values lie, Postgres takes the index for of little use.
            await connection.execute(f"ANALYZE {table.quoted}")
    except _NOT_MADE as error:
        message = (
            f"table {table.quoted} has no index by {quote(table.owner_field)}: {describe(error)}. "
            f"Its owner may say: {index.concurrent_statement}"
        )
        return [Log(level=Log.LEVEL_WARN, message=message)]
    message = f"created index {quote(index.name)} of table {table.quoted}"
    return [Log(level=Log.LEVEL_INFO, message=message)]
