"""Trial write of an entry, rolled back, by which a check finds whether a sync can record."""

import asyncpg

from engine_server.connectors.postgres.checkpoints import table
from engine_server.connectors.postgres.checkpoints.entries import new_name
from engine_server.connectors.postgres.checkpoints.moves import constant
from engine_server.connectors.postgres.connection.errors import describe, is_connection_error
from engine_server.connectors.postgres.connection.pool import Connection

# The timeouts are those of the trial rows of a check.
_SCRIPT = """
SET LOCAL lock_timeout = '0.5s';
SET LOCAL statement_timeout = '3s';
INSERT INTO {checkpoints} (
    account_id, lineage, stream, checkpoint, stream_schema, epoch, number, history, has_rows,
    written_at
)
VALUES ({name}, {name}, '', NULL, '', {name}, 0, '[]', false, now());
UPDATE {checkpoints} SET number = 1, written_at = now()
WHERE account_id = {name} AND lineage = {name};
DELETE FROM {checkpoints} WHERE account_id = {name} AND lineage = {name};
SET CONSTRAINTS ALL IMMEDIATE
"""
# Another session locks the table, or a trigger is slow: the result is unknown.
_UNKNOWN = frozenset({"55P03", "40P01", "57014"})


async def refused_entry(connection: Connection, schema: str) -> str:
    """Return why Postgres refuses an entry; empty when it accepts one, or when that is unknown.

    Raises:
        asyncpg.PostgresError: The connection was lost.
    """
    if not (await table.access(connection, schema)).is_usable:
        return ""
    name = constant(f"pipesync_check_{new_name()}")
    tried = connection.transaction()
    await tried.start()
    try:
        await connection.execute(_SCRIPT.format(checkpoints=table.quoted(schema), name=name))
    except asyncpg.PostgresError as error:
        if is_connection_error(error):
            raise
        if error.sqlstate in _UNKNOWN:
            return ""
        return f"table {table.quoted(schema)} does not take checkpoints: {describe(error)}"
    finally:
        if not connection.is_closed():
            await tried.rollback()
    return ""
