"""A line of recorded checkpoints that a check writes as a sync would, and takes back."""

import asyncpg

from engine_server.connectors.postgres.checkpoints import table
from engine_server.connectors.postgres.checkpoints.lines import new_name
from engine_server.connectors.postgres.checkpoints.moves import constant
from engine_server.connectors.postgres.faults import describe, is_connection_fault
from engine_server.connectors.postgres.pool import Connection

# The limits are those of the rows that a check tries.
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
# Another session locks the table, or a trigger is slow: nothing is learnt.
_UNKNOWN = frozenset({"55P03", "40P01", "57014"})


async def refused_line(connection: Connection, schema: str) -> str:
    """Try a line, and return why it was refused; empty when it was not.

    Raises:
        asyncpg.PostgresError: Postgres refused something that is not about the table.
    """
    if not (await table.access(connection, schema)).is_usable:
        return ""
    name = constant(f"pipesync_check_{new_name()}")
    tried = connection.transaction()
    await tried.start()
    try:
        await connection.execute(_SCRIPT.format(checkpoints=table.quoted(schema), name=name))
    except asyncpg.PostgresError as error:
        if is_connection_fault(error):
            raise
        if error.sqlstate in _UNKNOWN:
            return ""
        return f"table {table.quoted(schema)} does not take checkpoints: {describe(error)}"
    finally:
        if not connection.is_closed():
            await tried.rollback()
    return ""
